"""What a policy reads of a request: as Envoy's connection manager shows it to its filters, not as it came on the wire.

Source: ConnectionManagerUtility::mutateRequestHeaders. Headers of one connection are gone by then, others have been added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from meshlib.config.policy import Address
from meshlib.inbound.forwarded import HEADER, forwarded_client_cert
from meshlib.inbound.visit import Visit
from meshlib.match import header_values

Reader = Callable[[Visit], list[str]]
Ip = IPv4Address | IPv6Address

_SCHEMES = frozenset({"http", "https"})
_NEW_ID = "00000000-0000-4000-8000-000000000000"  # stands for the one that the mesh is about to make: nobody knows it yet


# Of one connection only, and what no client from outside may order.
_GONE = """
    keep-alive proxy-connection transfer-encoding x-envoy-expected-rq-timeout-ms x-envoy-force-trace
    x-envoy-hedge-on-per-try-timeout x-envoy-internal x-envoy-ip-tags x-envoy-max-retries x-envoy-original-url
    x-envoy-retriable-header-names x-envoy-retriable-status-codes x-envoy-retry-grpc-on x-envoy-retry-on
    x-envoy-upstream-alt-stat-name x-envoy-upstream-rq-per-try-timeout-ms x-envoy-upstream-rq-timeout-alt-response
    x-envoy-upstream-rq-timeout-ms x-envoy-upstream-stream-duration-ms
    """.split()  # noqa: SIM905  # a list takes twenty lines


def reader(name: str) -> Reader:
    """What gives the values of a header, one for each line."""
    return _READERS.get(name) or (lambda visit: header_values(name, visit.request))


def _gone(visit: Visit) -> list[str]:
    return []


def _of_upgrades(name: str) -> Reader:
    def read(visit: Visit) -> list[str]:
        wanted = ",".join(header_values("connection", visit.request)).lower().split(",")
        asked = header_values("upgrade", visit.request)
        return header_values(name, visit.request) if asked and "upgrade" in (one.strip() for one in wanted) else []

    return read


def _trailers(visit: Visit) -> list[str]:
    """Of the codings that a client takes, trailers only are its matter."""
    values = header_values("te", visit.request)
    if not any(values):
        return values
    words = ",".join(values).lower().split(",")
    return ["trailers"] if any(word.partition(";")[0].strip() == "trailers" for word in words) else []


def _expect(visit: Visit) -> list[str]:
    return [value for value in header_values("expect", visit.request) if value.lower() != "100-continue"]


def _forwarded_scheme(visit: Visit) -> list[str]:
    return header_values("x-forwarded-proto", visit.request) or ["https" if visit.peer.secured else "http"]


def _scheme(visit: Visit) -> list[str]:
    told = [value.lower() for value in _forwarded_scheme(visit)]
    return told if told[0] in _SCHEMES else ["https" if visit.peer.secured else "http"]


def _request_id(visit: Visit) -> list[str]:
    """An empty one is none, as Envoy's `UUIDRequestIDExtension` has it."""
    told = header_values("x-request-id", visit.request)
    return told if any(told) else [_NEW_ID]


def _certificate(visit: Visit) -> list[str]:
    value = forwarded_client_cert("", visit.peer)
    return [value] if value else []


_READERS: Mapping[str, Reader] = {
    "connection": _of_upgrades("connection"),
    "upgrade": _of_upgrades("upgrade"),
    **dict.fromkeys(_GONE, _gone),
    "te": _trailers,
    "expect": _expect,
    ":scheme": _scheme,
    "x-forwarded-proto": _forwarded_scheme,
    "x-request-id": _request_id,
    HEADER: _certificate,
}


def address_of(whose: Address) -> Callable[[Visit], Ip | None]:
    """What gives an address; None: it is none (a Unix socket)."""
    return _ADDRESSES[whose]


def _destination(visit: Visit) -> Ip | None:
    return parsed_address(_host(visit.local_address))


def _direct(visit: Visit) -> Ip | None:
    return parsed_address(_host(visit.peer.address))


def _remote(visit: Visit) -> Ip | None:
    """The last address of x-forwarded-for; without a good one, the peer's own (Envoy: getLastAddressFromXFF)."""
    named = header_values("x-forwarded-for", visit.request)
    told = parsed_address(_last(named[0])) if named else None
    return told or _direct(visit)


def _last(forwarded: str) -> str:
    before, comma, last = forwarded.rpartition(",")
    return (last if not comma or last else f"{before},").strip(" \t")  # Envoy takes a text that ends in a comma whole


_ADDRESSES: Mapping[Address, Callable[[Visit], Ip | None]] = {
    Address.DESTINATION: _destination,
    Address.DIRECT: _direct,
    Address.REMOTE: _remote,
}


@lru_cache(maxsize=4096)
def parsed_address(text: str) -> Ip | None:
    """An address, IPv4 also where a socket shows it inside of IPv6; None for other texts."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def port_of(visit: Visit) -> int:
    """Our port; 0: not known."""
    port = visit.local_address.rpartition(":")[2]
    return int(port) if port.isdigit() else 0
