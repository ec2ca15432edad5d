"""The tables of `meshlib pc`: a resource's JSON as a few words. They fit 80 columns for names of usual length.

`.svc.cluster.local` is left out of hosts; `-o json` has everything.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

Body = Mapping[str, Any]
LONGEST_DIFFERENCE: Final = 40  # lines; -o json has the rest


INBOUND_PREFIX: Final = "xds.istio.io/grpc/lds/inbound/"


def short(host: str) -> str:
    """A host as people call it."""
    head, suffix, rest = host.partition(".svc.cluster.local")
    return head + rest if suffix else host


def body_of(resource: Body) -> Body:
    """What the client holds; what it should have, as long as it holds nothing."""
    return resource.get("held") or resource.get("wanted") or {}


def _listener(resource: Body) -> Iterator[list[str]]:
    body = body_of(resource)
    inner = _managers(body)
    routes = ", ".join(dict.fromkeys(words for manager in inner if (words := _destination(manager))))
    name = short(resource["name"])
    inbound = name.removeprefix(INBOUND_PREFIX)
    yield [name if inbound == name else f"inbound {inbound}", _address(body), routes or "-"]


def _address(body: Body) -> str:
    found = body.get("address", {}).get("socketAddress", {})
    return f"{found['address']}:{found.get('portValue', 0)}" if found else "-"


def _managers(body: Body) -> list[Body]:
    api = body.get("apiListener", {}).get("apiListener")
    chains = [*body.get("filterChains", ()), *([body["defaultFilterChain"]] if "defaultFilterChain" in body else [])]
    return [*([api] if api else []), *(one.get("typedConfig", {}) for chain in chains for one in chain.get("filters", ()))]


def _destination(manager: Body) -> str:
    if "rds" in manager:
        _, port, _, host = [*manager["rds"]["routeConfigName"].split("|"), "", "", ""][:4]
        return f"{short(host)}:{port}" if host else f"route {manager['rds']['routeConfigName']}"
    if "cluster" in manager:
        return _cluster_words(manager["cluster"], "")
    hosts = manager.get("routeConfig", {}).get("virtualHosts", ())
    targets = [_target(route) for host in hosts for route in host.get("routes", ())]
    return ", ".join(target for target in targets if target != "-") or "inbound"


def _route(resource: Body) -> Iterator[list[str]]:
    body = body_of(resource)
    name = resource["name"]
    shown = name.split("|")[1] if name.startswith("outbound|") else name
    if not body:
        yield [shown, short(name), "-", "-", "-"]
    for host in body.get("virtualHosts", ()):
        place = host["name"].rpartition(":")[0] or host["name"]
        for route in host.get("routes", ()):
            yield [shown, short(place), _match(route.get("match", {})), _target(route, place), _origin(route)]


def _match(match: Body) -> str:
    path = match.get("path") or (f"{match['prefix']}*" if "prefix" in match else "")
    path = path or match.get("safeRegex", {}).get("regex", "")
    others = [one["name"] for one in (*match.get("headers", ()), *match.get("queryParameters", ()))]
    return " ".join([path, *dict.fromkeys(others)])


def _target(route: Body, host: str = "") -> str:
    action = route.get("route", {})
    if "cluster" in action:
        return _cluster_words(action["cluster"], host)
    shares = action.get("weightedClusters", {}).get("clusters", ())
    return ", ".join(f"{_cluster_words(one['name'], host)} {one['weight']}" for one in shares) or "-"


def _cluster_words(name: str, host: str) -> str:
    """The subset, if the cluster is of the host itself; otherwise the host as well."""
    parts = name.split("|")
    if len(parts) != 4 or parts[0] != "outbound":
        return name.removesuffix("Cluster")
    place = short(parts[3]) if parts[3] != host else ""
    return " ".join(part for part in (place, parts[2]) if part) or short(host)


def _origin(body: Body) -> str:
    facts = body.get("metadata", {}).get("filterMetadata", {}).get("meshlib", {})
    return str(facts.get("object", "")).partition(" ")[2].rpartition("/")[2] or "-"


def _cluster(resource: Body) -> Iterator[list[str]]:
    body = body_of(resource)
    direction, port, subset, host = [*resource["name"].split("|"), "", "", ""][:4]
    named = bool(port or host)
    kind = body.get("type") or "-"
    yield [short(host) or (direction if not named else "inbound"), port or "-", subset or "-", kind, _origin(body)]


def _endpoint(resource: Body) -> Iterator[list[str]]:
    body = body_of(resource)
    _, port, subset, host = [*resource["name"].split("|"), "", "", ""][:4]
    cluster = "|".join([port, subset, short(host)])
    rows = [
        [_endpoint_address(one), _mode(one), _workload(one), cluster]
        for group in body.get("endpoints", ())
        for one in group.get("lbEndpoints", ())
    ]
    yield from rows or [["-", "-", "-", cluster]]


def _endpoint_address(one: Body) -> str:
    found = one["endpoint"]["address"]["socketAddress"]
    return f"{found['address']}:{found['portValue']}"


def _mode(one: Body) -> str:
    matched = one.get("metadata", {}).get("filterMetadata", {}).get("envoy.transport_socket_match", {})
    return "mtls" if matched.get("tlsMode") == "istio" else "plain"


def _workload(one: Body) -> str:
    words = one.get("metadata", {}).get("filterMetadata", {}).get("istio", {}).get("workload", "")
    return str(words).partition(";")[0] or "-"


def _secret(resource: Body) -> Iterator[list[str]]:
    body = body_of(resource)
    roots = body.get("validationContext", {}).get("trustedCa", {}).get("inlineString", "")
    certificates = list(_certificates(roots))
    if not certificates:
        yield [resource["name"], *(("Cert Chain", "-", "-") if "tlsCertificate" in body else ("-", "-", "-"))]
    for serial, until in certificates:
        yield [resource["name"], "CA", f"{serial:x}"[:16], until]


def _certificates(pem: str) -> Iterator[tuple[int, str]]:
    if not pem:
        return
    from cryptography import x509

    for found in x509.load_pem_x509_certificates(pem.encode()):
        yield found.serial_number, found.not_valid_after_utc.strftime("%Y-%m-%d %H:%M")


TABLES: Final[Mapping[str, tuple[Sequence[str], Callable[[Body], Iterator[list[str]]]]]] = {
    "listener": (("NAME", "ADDRESS", "DESTINATION"), _listener),
    "route": (("NAME", "HOST", "MATCH", "TO", "RULE"), _route),
    "cluster": (("SERVICE", "PORT", "SUBSET", "TYPE", "RULE"), _cluster),
    "endpoint": (("ENDPOINT", "MODE", "WORKLOAD", "CLUSTER"), _endpoint),
    "secret": (("NAME", "TYPE", "SERIAL", "NOT AFTER"), _secret),
}
"""Headers, and the rows of one resource, by type."""


def differences(resource: Body) -> Iterator[str]:
    """What is to say of a resource that is not in sync: why it was rejected, and how it differs from what is wanted."""
    if resource["error"]:
        objects = ", ".join(resource["objects"]) or "no object"
        yield f"{resource['name']} was rejected: {resource['error']} (made from {objects})"
    title, before, after = _compared(resource)
    lines = list(_unified(before, after))
    if lines:
        yield f"{resource['name']}: {title}"
    yield from lines[:LONGEST_DIFFERENCE]
    if len(lines) > LONGEST_DIFFERENCE:
        yield f"... {len(lines) - LONGEST_DIFFERENCE} more lines: -o json"


def _compared(resource: Body) -> tuple[str, Body | None, Body | None]:
    """Which two bodies are to be shown as a difference; twice the same one if none."""
    wanted = resource.get("wanted", resource["held"])
    if "used" in resource:
        return "- in use, + wanted", resource["used"], wanted
    if resource["status"] in ("synced", "absent"):
        return "", wanted, wanted
    return "- acknowledged, + wanted", resource["held"], wanted


def _unified(held: Body | None, wanted: Body | None) -> Iterator[str]:
    before, after = (_pretty(body) for body in (held, wanted))
    yield from list(difflib.unified_diff(before, after, n=2, lineterm=""))[2:]


def _pretty(body: Body | None) -> list[str]:
    return json.dumps(body, indent=2, sort_keys=True).splitlines() if body else []
