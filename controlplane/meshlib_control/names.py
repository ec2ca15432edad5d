"""Host names: short ones made full, wildcards compared, and the names of xDS resources.

Rule 1: an object's short host (`reviews`) means the service of the object's own namespace (Istio: ResolveShortnameToFQDN).
Rule 2: a caller's authority is what its resolver would try: `reviews`, `reviews.default`, `reviews.default.svc`, full.
Rule 3: the longer of two matching wildcards is the more specific; an exact name beats them all (Istio: host.MoreSpecific).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

INBOUND_PREFIX = "xds.istio.io/grpc/lds/inbound/"
DEFAULT_PORT = 80


class ClusterName(NamedTuple):
    """What Istio writes into the name of an outbound cluster: `outbound|9080|v2|reviews.default.svc.cluster.local`."""

    port: int
    subset: str
    host: str

    def __str__(self) -> str:
        return f"outbound|{self.port}|{self.subset}|{self.host}"

    @property
    def sni(self) -> str:
        """The server name of mutual TLS towards this cluster: `outbound_.9080_.v2_.reviews.default.svc.cluster.local`."""
        return f"outbound_.{self.port}_.{self.subset}_.{self.host}"


def parse_cluster_name(name: str) -> ClusterName | None:
    """The parts of an outbound cluster's or route configuration's name; None if it is not of that form."""
    parts = name.split("|")
    if len(parts) != 4 or parts[0] != "outbound" or not parts[3]:
        return None
    port = _port(parts[1])
    return None if port is None else ClusterName(port, parts[2], parts[3])


def parse_host_port(name: str, default_port: int | None = None) -> tuple[str, int] | None:
    """`reviews:9080` as host (lower case) and port. Without a port: the default, or None if there is none."""
    host, colon, port_text = name.rpartition(":")
    if not colon or host.endswith(":") or "]" in port_text:
        return (name.lower(), default_port) if name and default_port is not None else None
    port = _port(port_text)
    return None if port is None or not host else (host.strip("[]").lower(), port)


def parse_inbound_name(name: str) -> tuple[str, int] | None:
    """Address and port of an inbound listener's name, `xds.istio.io/grpc/lds/inbound/127.0.0.1:9080`."""
    if not name.startswith(INBOUND_PREFIX):
        return None
    return parse_host_port(name.removeprefix(INBOUND_PREFIX))


def inbound_name(address: str, port: int) -> str:
    """The listener name under which a server asks for its own port's policy (Istio's template for proxyless gRPC)."""
    shown = f"[{address}]" if ":" in address else address
    return f"{INBOUND_PREFIX}{shown}:{port}"


def service_hostname(service: str, namespace: str, domain: str) -> str:
    """The full name of a registered service."""
    return f"{service}.{namespace}.svc.{domain}".lower()


def resolve(host: str, namespace: str, domain: str) -> str:
    """A host as an object of `namespace` wrote it, as a full name (rule 1). Names with a dot stay as they are."""
    lowered = host.lower()
    return lowered if "." in lowered or lowered == "*" else service_hostname(lowered, namespace, domain)


def candidates(host: str, namespace: str, domain: str) -> tuple[str, ...]:
    """The full names that a caller in `namespace` may mean by a host, best first (rule 2)."""
    lowered = host.lower().rstrip(".")
    dots = lowered.count(".")
    expanded: tuple[str, ...] = ()
    if dots == 0:
        expanded = (service_hostname(lowered, namespace, domain),)
    elif dots == 1:
        expanded = (f"{lowered}.svc.{domain}",)
    elif lowered.endswith(".svc"):
        expanded = (f"{lowered}.{domain}",)
    return (*expanded, lowered)


def authorities(host: str, namespace: str, domain: str) -> tuple[str, ...]:
    """The short forms by which a caller in `namespace` may name a full host, longest first; the host itself leads."""
    suffix = f".svc.{domain}"
    if not host.endswith(suffix):
        return (host,)
    stem = host.removesuffix(suffix)
    name, dot, home = stem.rpartition(".")
    forms = (host, f"{stem}.svc", stem)
    return (*forms, name) if dot and home == namespace and "." not in name else forms


def is_wildcard(host: str) -> bool:
    """Whether a host is `*` or begins with `*.`, as Istio allows."""
    return host.startswith("*")


def covers(pattern: str, host: str) -> bool:
    """Whether every name that `host` stands for is also named by `pattern` (Istio: SubsetOf).

    `*.foo.com` covers `a.foo.com`, `a.b.foo.com` and `*.a.foo.com`, not `foo.com`.
    """
    if not is_wildcard(pattern):
        return pattern == host
    return host.removeprefix("*").endswith(pattern[1:]) and (is_wildcard(host) or len(host) > len(pattern) - 1)


def most_specific(host: str, patterns: Iterable[str]) -> str | None:
    """The best of the patterns that cover a host (rule 3); None if none does."""
    return min((pattern for pattern in patterns if covers(pattern, host)), key=specificity, default=None)


def most_specific_known(host: str, known: Container[str]) -> str | None:
    """As `most_specific`, by looking up the few patterns that cover a host instead of going through thousands."""
    if host in known:
        return host
    dot = host.find(".", 1)
    while dot >= 0:
        pattern = f"*{host[dot:]}"
        if pattern in known:
            return pattern
        dot = host.find(".", dot + 1)
    return "*" if "*" in known else None


def specificity(pattern: str) -> tuple[bool, int, str]:
    """A sort key: exact names before wildcards, longer before shorter."""
    return (is_wildcard(pattern), -len(pattern), pattern)


def _port(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    return number if 0 < number < 65536 else None
