"""RateLimit: limits of a workload's port as Envoy's two rate limit filters.

A limit for all requests is a filter's own bucket. With conditions or keys it is a descriptor: `rate_limit=NAME.NAMESPACE`, and
then an entry for each key. What the application asks for by itself is a filter that is `disabled`: Envoy would pass it over,
and is not sent it; the library keeps it by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from meshlib.config.messages import message, pack
from meshlib.config.rate_limit import OF_APPLICATION
from meshlib_control.kinds import RateLimit, StringMatch
from meshlib_control.kinds.rate_limit import GlobalLimit, Key, LocalLimit, RequestMatch
from meshlib_control.model import MeshObject, Node, World
from meshlib_control.names import ClusterName, resolve
from meshlib_control.translate.build import duration
from meshlib_control.translate.scope import selects

Json = dict[str, Any]

LOCAL: Final = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
GLOBAL: Final = "envoy.extensions.filters.http.ratelimit.v3.RateLimit"
ENTRY: Final = "rate_limit"
"""The key of the first entry of our descriptors; its value is `NAME.NAMESPACE`."""

_ALWAYS: Final = {"default_value": {"numerator": 100}}
# As in Istio's examples, so that a refusal of the mesh can be told from one of the application.
_MARK: Final = {"header": {"key": "x-local-rate-limit", "value": "true"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
_TOKEN: Final = ("envoy.filters.http.jwt_authn", "payload")


def rate_limits_for(world: World, node: Node) -> list[MeshObject]:
    """The limits of a workload: of its namespace and of the root namespace, the oldest first."""
    return [
        item
        for item in world.of_kind("RateLimit")
        if isinstance(item.spec, RateLimit)
        and item.key.namespace in (world.root_namespace, node.namespace)
        and selects(item.spec.selector.match_labels if item.spec.selector else {}, node.labels)
    ]


def rate_limit_filters(world: World, node: Node) -> list[Json]:
    """The filters of a workload's ports: those of this process first, then those that ask a service."""
    if node.kind == "grpc":  # grpcio has neither filter
        return []
    items = [item for item in rate_limits_for(world, node) if item.spec.application is None or node.kind == "library"]
    return [_filter(world, item) for item in sorted(items, key=lambda item: item.spec.global_ is not None)]


def _filter(world: World, item: MeshObject) -> Json:
    spec: RateLimit = item.spec
    rules = [{"actions": list(_actions(item))}] if _is_narrowed(spec) or spec.global_ is not None else []
    if spec.local is not None:
        config = message(LOCAL)(**_local(spec.local, rules, list(_entries(item))))
    else:
        assert spec.global_ is not None
        config = message(GLOBAL)(**_global(world, item, spec.global_), rate_limits=rules)
    name = f"meshlib.ratelimit/{item.key.namespace}/{item.key.name}"
    return {"name": name, "typed_config": pack(config), "disabled": spec.application is not None}


def _is_narrowed(spec: RateLimit) -> bool:
    return bool(spec.match or spec.keys or (spec.application and spec.application.keys))


def _local(limit: LocalLimit, rules: list[Json], entries: list[Json]) -> Json:
    bucket = {
        "max_tokens": limit.burst or limit.requests,
        "tokens_per_fill": {"value": limit.requests},
        "fill_interval": duration(limit.per),
    }
    own = {"descriptors": [{"entries": entries, "token_bucket": bucket}]} if rules else {"token_bucket": bucket}
    return {
        "stat_prefix": "rate_limit",
        "filter_enabled": _ALWAYS,
        "filter_enforced": _ALWAYS,
        "response_headers_to_add": [_MARK],
        "rate_limits": rules,
        "max_dynamic_descriptors": {"value": limit.values},
        **own,
    }


def _global(world: World, item: MeshObject, limit: GlobalLimit) -> Json:
    cluster = ClusterName(limit.port, "", resolve(limit.host, item.key.namespace, world.domain_suffix))
    service = {"grpc_service": {"envoy_grpc": {"cluster_name": str(cluster)}}, "transport_api_version": "V3"}
    return {
        "domain": limit.domain,
        "failure_mode_deny": limit.fail_closed,
        "timeout": duration(limit.timeout),
        "rate_limit_service": service,
    }


def _entries(item: MeshObject) -> Iterator[Json]:
    """The descriptor of a bucket: without a value an entry gives each value a bucket of its own."""
    spec: RateLimit = item.spec
    yield {"key": ENTRY, "value": _value(item)}
    yield from ({"key": _entry_key(key)} for key in spec.keys)
    yield from ({"key": key} for key in (spec.application.keys if spec.application else ()))


def _value(item: MeshObject) -> str:
    return f"{item.key.name}.{item.key.namespace}"


def _actions(item: MeshObject) -> Iterator[Json]:
    spec: RateLimit = item.spec
    if spec.match is not None:
        yield {
            "header_value_match": {"descriptor_key": ENTRY, "descriptor_value": _value(item), "headers": _headers(spec.match)}
        }
    else:
        yield {"generic_key": {"descriptor_key": ENTRY, "descriptor_value": _value(item)}}
    yield from map(_action, spec.keys)
    yield from (_metadata(key, (OF_APPLICATION, key)) for key in (spec.application.keys if spec.application else ()))


def _action(key: Key) -> Json:
    if key.header:
        return {"request_headers": {"header_name": key.header, "descriptor_key": _entry_key(key)}}
    if key.query:
        return {"query_parameters": {"query_parameter_name": key.query, "descriptor_key": _entry_key(key)}}
    if key.claim:
        return _metadata(_entry_key(key), (*_TOKEN, key.claim))
    if key.peer:
        input_ = message("envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput")()
        return {"extension": {"name": _entry_key(key), "typed_config": pack(input_)}}
    return {"remote_address": {}}


def _entry_key(key: Key) -> str:
    if key.header:
        return key.header.lower()
    return key.query or key.claim or ("peer" if key.peer else "remote_address")


def _metadata(name: str, path: tuple[str, ...]) -> Json:
    first, *rest = path
    return {
        "metadata": {"descriptor_key": name, "metadata_key": {"key": first, "path": [{"key": step} for step in rest]}},
    }


def _headers(match: RequestMatch) -> list[Json]:
    conditions: Iterable[tuple[str, StringMatch | None]] = (
        (":path", _of_path(match.path)),
        (":method", match.method),
        *match.headers.items(),
    )
    return [{"name": name.lower(), **_condition(one)} for name, one in conditions if one is not None]


def _of_path(match: StringMatch | None) -> StringMatch | None:
    """Envoy's `:path` has the query; who writes a path does not mean it."""
    if match is None or match.prefix is not None or (match.exact is None and match.regex is None):
        return match
    text = re.escape(match.exact) if match.exact is not None else f"(?:{match.regex})"
    return StringMatch(regex=rf"{text}(?:\?.*)?")


def _condition(match: StringMatch) -> Json:
    if match.exact is not None:
        return {"string_match": {"exact": match.exact}}
    if match.prefix is not None:
        return {"string_match": {"prefix": match.prefix}}
    if match.regex is not None:
        return {"string_match": {"safe_regex": {"regex": match.regex}}}
    return {"present_match": True}
