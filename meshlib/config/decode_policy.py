"""The HTTP filters of an inbound listener -> `meshlib.config.policy`. Part of `decode`, and under its rules.

A filter that we would not obey is refused: a port whose policy is half understood would let in whom it should not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meshlib.config import decode_fields as fields
from meshlib.config.decode_jwt import jwt_authn
from meshlib.config.decode_rate_limit import global_rate_limit, local_rate_limit
from meshlib.config.decode_rbac import rbac
from meshlib.config.messages import TYPE_PREFIX
from meshlib.config.policy import AS_WRITTEN, EscapedSlashes, Filter, Normalization
from meshlib.errors import ConfigurationError

Policy = tuple[tuple[Filter, ...], Normalization]


def _nothing(body: Any, place: str) -> None:
    """The router sends requests on; here the application is called."""


_DECODERS: Mapping[str, Callable[[Any, str], Filter | None]] = {
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication": jwt_authn,
    "envoy.extensions.filters.http.rbac.v3.RBAC": rbac,
    "envoy.extensions.filters.http.router.v3.Router": _nothing,
}
"""By message; a decoder gives None for a filter that says nothing to us."""

_DECODERS_WITH_ROUTE: Mapping[str, Callable[[Any, Any, str], Filter]] = {
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit": local_rate_limit,
    "envoy.extensions.filters.http.ratelimit.v3.RateLimit": global_rate_limit,
}
"""Filters of which the route says more. A `disabled` one is there for the application to ask for."""


def inbound_policy(chains: Iterable[Any]) -> Policy:
    """Filters in order, and what is done to paths. Raises ConfigurationError if the filter chains do not agree.

    Args:
        chains: the listener's filter chains: one for mutual TLS, one for plain text, or one of them.
    """
    found = [_chain_policy(chain, f"filter_chains[{index}]") for index, chain in enumerate(chains)]
    if any(policy != found[0] for policy in found):
        raise ConfigurationError("the filter chains have different HTTP filters", field="filter_chains")
    return found[0]


def _chain_policy(chain: Any, place: str) -> Policy:
    for index, network_filter in enumerate(chain.filters):
        where = f"{place}.filters[{index}]"
        manager = fields.unpacked(network_filter.typed_config, where)
        if manager.DESCRIPTOR.name != "HttpConnectionManager":
            raise ConfigurationError("only HttpConnectionManager is supported", field=where)
        return _filters(manager, where), _normalization(manager)
    return (), AS_WRITTEN


def _filters(manager: Any, place: str) -> tuple[Filter, ...]:
    found = (_filter(one, manager, f"{place}.http_filters[{index}]") for index, one in enumerate(manager.http_filters))
    return tuple(one for one in found if one is not None)


def _filter(http_filter: Any, manager: Any, place: str) -> Filter | None:
    name = http_filter.typed_config.type_url.removeprefix(TYPE_PREFIX)
    if name in _DECODERS_WITH_ROUTE:
        return _DECODERS_WITH_ROUTE[name](http_filter, manager, place)
    decoder = _DECODERS.get(name)
    if http_filter.disabled or (decoder is None and http_filter.is_optional):
        return None  # Envoy: an optional filter "is ignored if it is not supported"
    if decoder is None:
        raise ConfigurationError(
            f"the HTTP filter {http_filter.name} ({http_filter.typed_config.type_url or 'no type'}) is not supported",
            field=place,
        )
    return decoder(fields.unpacked(http_filter.typed_config, place), place)


def _normalization(manager: Any) -> Normalization:
    action = fields.enum_name(manager, "path_with_escaped_slashes_action")
    known = {one.value: one for one in EscapedSlashes}
    return Normalization(
        normalize=bool(manager.normalize_path.value),
        merge_slashes=bool(manager.merge_slashes),
        escaped_slashes=known.get(action, EscapedSlashes.KEEP),  # Envoy's default is to keep them
    )
