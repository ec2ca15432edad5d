"""What a request counts as: the actions of a rate limit on a visit. Envoy: router_ratelimit.cc.

Rule 1: an action that finds nothing takes its whole descriptor away, unless it is optional: then it only adds no entry.
Rule 2: of a header with several lines the first one counts, and the first of several equal query parameters.
Rule 3: an entry without a key is left out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meshlib.config import rate_limit as config
from meshlib.config.rate_limit import Action, Entries, Rule
from meshlib.inbound.visit import Visit
from meshlib.match import header_matches, header_values, query_matches, query_parameters

Found = str | None


def descriptors(rules: Iterable[Rule], visit: Visit, cluster: str) -> list[Entries]:
    """The descriptors of a request, in the order of the rules.

    Args:
        cluster: our own, Envoy's `--service-cluster`.
    """
    found = (_descriptor(rule, visit, cluster) for rule in rules)
    return [entries for entries in found if entries is not None]


def _descriptor(rule: Rule, visit: Visit, cluster: str) -> Entries | None:
    entries = []
    for action in rule:
        if isinstance(action, config.SourceCluster):
            value: Found = cluster
        else:
            value = _VALUES[type(action)](action, visit)
        if value is not None and action.key:
            entries.append((action.key, value))
        elif value is None and not getattr(action, "optional", False):
            return None
    return tuple(entries)


def _constant(action: config.Constant, _visit: Visit) -> Found:
    return action.value


def _destination(_action: Action, visit: Visit) -> Found:
    return f"inbound|{visit.local_address.rpartition(':')[2]}||"


def _header(action: config.HeaderValue, visit: Visit) -> Found:
    values = header_values(action.name, visit.request)
    return values[0] if values else None


def _query(action: config.QueryValue, visit: Visit) -> Found:
    return query_parameters(visit.request.path).get(action.name)


def _remote_address(_action: Action, visit: Visit) -> Found:
    address = remote_ip(visit)
    return str(address) if address is not None else None


def _masked_remote_address(action: config.MaskedRemoteAddress, visit: Visit) -> Found:
    address = remote_ip(visit)
    if address is None:
        return None
    length = action.v4 if address.version == 4 else action.v6
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


def remote_ip(visit: Visit) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Whose request it is. Envoy in a sidecar (use_remote_address: false) believes the last entry of x-forwarded-for."""
    forwarded = visit.request.header("x-forwarded-for")
    text = forwarded.rpartition(",")[2].strip() if forwarded else ""
    return _address(text) or _address(visit.peer.address.rpartition(":")[0])


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _headers_match(action: config.HeadersMatch, visit: Visit) -> Found:
    met = all(header_matches(condition, visit.request) for condition in action.headers)
    return action.value if met is action.expected else None


def _query_matches(action: config.QueryMatches, visit: Visit) -> Found:
    parameters = query_parameters(visit.request.path)
    met = all(query_matches(condition, parameters) for condition in action.query)
    return action.value if met is action.expected else None


def _metadata(action: config.MetadataValue, visit: Visit) -> Found:
    value: Any = visit.metadata
    for step in action.path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return (value if isinstance(value, str) else "") or action.default or None


def _peer(_action: Action, visit: Visit) -> Found:
    return visit.peer.spiffe_id or None


_VALUES: Mapping[type[Any], Callable[[Any, Visit], Found]] = {
    config.Constant: _constant,
    config.DestinationCluster: _destination,
    config.HeaderValue: _header,
    config.QueryValue: _query,
    config.RemoteAddress: _remote_address,
    config.MaskedRemoteAddress: _masked_remote_address,
    config.HeadersMatch: _headers_match,
    config.QueryMatches: _query_matches,
    config.MetadataValue: _metadata,
    config.PeerIdentity: _peer,
}
