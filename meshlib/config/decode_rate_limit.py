"""Envoy's rate limit filters -> `meshlib.config.rate_limit`. Part of `decode`, and under its rules.

An inbound listener has one virtual host with one route, so what these say about the filters is merged here, once:

Rule 1: settings of the filter on the route replace those on the virtual host, and these the filter's own (Envoy: the most
        specific typed_per_filter_config, whole). The global filter's are few, and replace only what they name.
Rule 2: `rate_limits` inside a filter's settings are all there is. Without them the route's count, and the virtual host's by
        vh_rate_limits: OVERRIDE only if the route has none, INCLUDE too, IGNORE never.
Rule 3: a route's rule belongs to the filters of its stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from meshlib.config import decode_fields as fields
from meshlib.config import rate_limit as values
from meshlib.config.decode_match import header_match, query_match
from meshlib.config.rate_limit import Action, GlobalRateLimit, LocalRateLimit, Named, Rule, TokenBucket
from meshlib.errors import ConfigurationError
from meshlib.facts import Headers

MOST_STAGES = 10
SHORTEST_FILL = 0.05  # seconds; Envoy's limit
DEFAULT_TIMEOUT = 0.02  # seconds; Envoy's


def local_rate_limit(http_filter: Any, manager: Any, place: str) -> LocalRateLimit:
    """The local filter with what the route of the listener says about it.

    Args:
        http_filter: the HttpFilter of the connection manager.
        manager: the HttpConnectionManager.
    """
    host, route = _only_route(manager, place)
    own = fields.unpacked(http_filter.typed_config, place)
    body = _per_route(http_filter.name, host, route, own, place)
    if body is not own and not body.HasField("token_bucket"):
        raise ConfigurationError("token_bucket must be set in the settings of a route", field=place)  # Envoy
    if body.local_rate_limit_per_downstream_connection or body.HasField("local_cluster_rate_limit"):
        raise ConfigurationError("limits by connection or shared by a cluster are not supported", field=place)
    return LocalRateLimit(
        name=http_filter.name,
        bucket=_bucket(body.token_bucket, f"{place}.token_bucket") if body.HasField("token_bucket") else None,
        named=tuple(_named(body.descriptors, f"{place}.descriptors")),
        rules=_rules(body, host, route, fields.enum_name(body, "vh_rate_limits"), place),
        always_default=body.always_consume_default_token_bucket.value
        if body.HasField("always_consume_default_token_bucket")
        else True,
        enabled=_fraction(body, "filter_enabled", 0.0, place),
        enforced=_fraction(body, "filter_enforced", 0.0, place),
        status=_error_status(body.status.code, 429),
        refused_headers=_headers(body.response_headers_to_add, f"{place}.response_headers_to_add"),
        passed_headers=_headers(body.request_headers_to_add_when_not_enforced, place),
        tell=_tells(body),
        exhausted=body.rate_limited_as_resource_exhausted,
        most_values=body.max_dynamic_descriptors.value if body.HasField("max_dynamic_descriptors") else 20,
        of_application=http_filter.disabled,
    )


def global_rate_limit(http_filter: Any, manager: Any, place: str) -> GlobalRateLimit:
    """The global filter with what the route of the listener says about it. Arguments as in `local_rate_limit`."""
    host, route = _only_route(manager, place)
    body = fields.unpacked(http_filter.typed_config, place)
    if body.request_type not in ("", "both") or body.HasField("failure_mode_deny_percent"):
        raise ConfigurationError("request_type and failure_mode_deny_percent are not supported", field=place)
    per_route = _per_route(http_filter.name, host, route, None, place)
    source = per_route if per_route is not None and per_route.rate_limits else body
    return GlobalRateLimit(
        name=http_filter.name,
        domain=(per_route.domain if per_route is not None else "") or fields.required(body.domain, f"{place}.domain"),
        target=_target(body.rate_limit_service.grpc_service, f"{place}.rate_limit_service.grpc_service"),
        timeout=fields.seconds(body, "timeout", place) if body.HasField("timeout") else DEFAULT_TIMEOUT,
        closed=body.failure_mode_deny,
        rules=_rules(source, host, route, _virtual_host_rule(per_route), place, stage=body.stage),
        enabled=_fraction(body, "filter_enabled", 1.0, place),
        enforced=_fraction(body, "filter_enforced", 1.0, place),
        status=_error_status(body.rate_limited_status.code, 429),
        error_status=body.status_on_error.code or 500,
        refused_headers=_headers(body.response_headers_to_add, f"{place}.response_headers_to_add"),
        tell=_tells(body),
        marked=not body.disable_x_envoy_ratelimited_header,
        exhausted=body.rate_limited_as_resource_exhausted,
        of_application=http_filter.disabled,
    )


def _only_route(manager: Any, place: str) -> tuple[Any, Any]:
    hosts = manager.route_config.virtual_hosts
    if len(hosts) != 1 or len(hosts[0].routes) != 1:
        raise ConfigurationError("a port with rate limits has one virtual host with one route", field=f"{place}.route_config")
    return hosts[0], hosts[0].routes[0]


def _per_route(name: str, host: Any, route: Any, default: Any, place: str) -> Any:
    for owner in (route, host):
        if name in owner.typed_per_filter_config:
            return fields.unpacked(owner.typed_per_filter_config[name], f"{place}.typed_per_filter_config")
    return default


def _virtual_host_rule(per_route: Any) -> str:
    """What a route's settings say about its virtual host's rules. `override_option` says nothing: Envoy 1.40 ignores it."""
    return "OVERRIDE" if per_route is None else fields.enum_name(per_route, "vh_rate_limits")


def _rules(body: Any, host: Any, route: Any, option: str, place: str, stage: int | None = None) -> tuple[Rule, ...]:
    if body.rate_limits:
        return tuple(_rule(one, f"{place}.rate_limits[{index}]") for index, one in enumerate(body.rate_limits))
    of_route = route.route.rate_limits
    if route.route.include_vh_rate_limits.value:
        option = "INCLUDE"
    included = option == "INCLUDE" or (option == "OVERRIDE" and not of_route)
    wanted = body.stage if stage is None else stage
    mine = [one for one in (*of_route, *(host.rate_limits if included else ())) if one.stage.value == wanted]
    return tuple(_rule(one, f"{place}.rate_limits[{index}]") for index, one in enumerate(mine) if not one.disable_key)


def _rule(rule: Any, place: str) -> Rule:
    for name in ("limit", "hits_addend"):
        if rule.HasField(name):
            raise ConfigurationError("is not supported", field=f"{place}.{name}")
    if rule.apply_on_stream_done:
        raise ConfigurationError("is not supported", field=f"{place}.apply_on_stream_done")
    return tuple(_action(one, f"{place}.actions[{index}]") for index, one in enumerate(rule.actions))


def _action(action: Any, place: str) -> Action:
    form = action.WhichOneof("action_specifier")
    decoder = _ACTIONS.get(form or "")
    if decoder is None:
        raise ConfigurationError(f"{form or 'no action'} is not supported", field=place)
    return decoder(getattr(action, form), f"{place}.{form}")


def _generic_key(action: Any, place: str) -> Action:
    return values.Constant(action.descriptor_key or "generic_key", _plain(action.descriptor_value, place))


def _request_headers(action: Any, _place: str) -> Action:
    return values.HeaderValue(action.header_name.lower(), action.descriptor_key, action.skip_if_absent)


def _query_parameters(action: Any, _place: str) -> Action:
    return values.QueryValue(action.query_parameter_name, action.descriptor_key, action.skip_if_absent)


def _masked(action: Any, _place: str) -> Action:
    v4, v6 = action.v4_prefix_mask_len, action.v6_prefix_mask_len
    return values.MaskedRemoteAddress(
        v4.value if action.HasField("v4_prefix_mask_len") else 32, v6.value if action.HasField("v6_prefix_mask_len") else 128
    )


def _header_value_match(action: Any, place: str) -> Action:
    conditions = tuple(header_match(one, f"{place}.headers[{index}]") for index, one in enumerate(action.headers))
    value = _plain(action.descriptor_value, place)
    return values.HeadersMatch(action.descriptor_key or "header_match", value, conditions, _expected(action))


def _query_value_match(action: Any, place: str) -> Action:
    conditions = tuple(
        query_match(one, f"{place}.query_parameters[{index}]") for index, one in enumerate(action.query_parameters)
    )
    value = _plain(action.descriptor_value, place)
    return values.QueryMatches(action.descriptor_key or "query_match", value, conditions, _expected(action))


def _expected(action: Any) -> bool:
    return bool(action.expect_match.value) if action.HasField("expect_match") else True


def _metadata(action: Any, place: str) -> Action:
    if "source" in action.DESCRIPTOR.fields_by_name and fields.enum_name(action, "source") != "DYNAMIC":
        raise ConfigurationError("only dynamic metadata is supported", field=f"{place}.source")
    path = (action.metadata_key.key, *(segment.key for segment in action.metadata_key.path))
    return values.MetadataValue(action.descriptor_key, path, action.default_value, getattr(action, "skip_if_absent", False))


_URI_SAN = "type.googleapis.com/envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"


def _extension(action: Any, place: str) -> Action:
    """Envoy lets any of its matching inputs give an entry, whose key is the extension's name."""
    if action.typed_config.type_url != _URI_SAN:
        raise ConfigurationError(f"{action.typed_config.type_url} is not supported", field=place)
    return values.PeerIdentity(action.name)


_ACTIONS: Mapping[str, Callable[[Any, str], Action]] = {
    "source_cluster": lambda _action, _place: values.SourceCluster(),
    "destination_cluster": lambda _action, _place: values.DestinationCluster(),
    "request_headers": _request_headers,
    "query_parameters": _query_parameters,
    "remote_address": lambda _action, _place: values.RemoteAddress(),
    "masked_remote_address": _masked,
    "generic_key": _generic_key,
    "header_value_match": _header_value_match,
    "query_parameter_value_match": _query_value_match,
    "dynamic_metadata": _metadata,
    "metadata": _metadata,
    "extension": _extension,
}


def _named(descriptors: Iterable[Any], place: str) -> Iterator[Named]:
    seen = set[values.Entries]()
    for index, one in enumerate(descriptors):
        where = f"{place}[{index}]"
        entries = tuple((entry.key, entry.value) for entry in one.entries)
        if entries in seen:
            raise ConfigurationError("the same descriptor twice", field=where)
        seen.add(entries)
        yield Named(entries, _bucket(one.token_bucket, f"{where}.token_bucket"))


def _bucket(bucket: Any, place: str) -> TokenBucket:
    interval = fields.seconds(bucket, "fill_interval", place)
    if bucket.max_tokens < 1:
        raise ConfigurationError("must be 1 or more", field=f"{place}.max_tokens")
    if interval < SHORTEST_FILL:
        raise ConfigurationError("must be 50ms or more", field=f"{place}.fill_interval")
    per_fill = bucket.tokens_per_fill.value if bucket.HasField("tokens_per_fill") else 1
    if per_fill < 1:
        raise ConfigurationError("must be 1 or more", field=f"{place}.tokens_per_fill")
    return TokenBucket(bucket.max_tokens, per_fill, interval)


_DENOMINATORS = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}


def _fraction(body: Any, name: str, absent: float, place: str) -> float:
    if not body.HasField(name):
        return absent
    value = getattr(body, name).default_value
    denominator = _DENOMINATORS.get(fields.enum_name(value, "denominator"))
    if denominator is None:
        raise ConfigurationError("unknown denominator", field=f"{place}.{name}")
    return min(1.0, float(value.numerator / denominator))


def _error_status(code: int, default: int) -> int:
    """Envoy: a status below 400 would be no refusal."""
    return code if code >= 400 else default


def _headers(options: Iterable[Any], place: str) -> Headers:
    found = ((one.header.key.lower(), one.header.value or one.header.raw_value.decode("latin-1")) for one in options)
    return tuple((name, _plain(value, place)) for name, value in found)


def _plain(text: str, place: str) -> str:
    """A text without Envoy's commands (%REQ(...)%), which we do not obey; two percent signs are one."""
    if "%" in text.replace("%%", ""):
        raise ConfigurationError(f"commands are not supported: {text}", field=place)
    return text.replace("%%", "%")


def _tells(body: Any) -> bool:
    return fields.enum_name(body, "enable_x_ratelimit_headers") == "DRAFT_VERSION_03"


def _target(service: Any, place: str) -> str:
    """Where the service is: a mesh cluster's host and port, or the target of google_grpc."""
    if service.google_grpc.target_uri:
        return str(service.google_grpc.target_uri)
    kind, _, rest = service.envoy_grpc.cluster_name.partition("|")
    port, _, subset_and_host = rest.partition("|")
    host = subset_and_host.rpartition("|")[2]
    if kind != "outbound" or not port.isdigit() or not host:
        raise ConfigurationError("needs the cluster of a service, outbound|8081||ratelimit.default...", field=place)
    return f"{host}:{port}"
