"""One rule of a VirtualService's `http` (Istio: pkg/config/validation/virtualservice.go)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from meshlib_control.kinds.common import GRPC_STATUSES, HeaderOperations, Headers, StringMatch
from meshlib_control.kinds.virtual_service import (
    CorsPolicy,
    FaultAbort,
    FaultDelay,
    HttpDirectResponse,
    HttpFault,
    HttpMatch,
    HttpRedirect,
    HttpRetry,
    HttpRewrite,
    HttpRoute,
    HttpRouteDestination,
    RouteDestination,
)
from meshlib_control.mistakes import Mistake, child, did_you_mean, item
from meshlib_control.validate import formats
from meshlib_control.validate.common import destination, each, labels, match_text, percent, told, whole_percent

_CORS_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"})
_MAX_BODY: Final = 1 << 20


def check(route: HttpRoute, path: str, *, delegate: bool) -> Iterator[Mistake]:
    """Everything wrong with a rule. `delegate`: it belongs to a VirtualService without hosts."""
    yield from _conflicts(route, path, delegate)
    for index, match in enumerate(route.match):
        yield from _match(match, item(f"{path}.match", index))
    yield from weighted(route.route, f"{path}.route")
    for index, target in enumerate(route.route):
        yield from _headers(target.headers, f"{item(f'{path}.route', index)}.headers")
    yield from _headers(route.headers, f"{path}.headers")
    yield from _authority_once(route, path)
    yield from _fault(route.fault, f"{path}.fault")
    yield from _retries(route.retries, f"{path}.retries")
    yield from _redirect(route.redirect, route.match, f"{path}.redirect")
    yield from _rewrite(route.rewrite, f"{path}.rewrite")
    yield from _direct_response(route.direct_response, f"{path}.directResponse")
    yield from _mirrors(route, path)
    yield from _cors(route.cors_policy, f"{path}.corsPolicy")


def _conflicts(route: HttpRoute, path: str, delegate: bool) -> Iterator[Mistake]:
    actions = [
        name
        for name, given in (("route", route.route), ("redirect", route.redirect), ("directResponse", route.direct_response))
        if given
    ]
    if route.delegate is not None:
        if delegate:
            yield Mistake(f"{path}.delegate", "a delegate cannot have a delegate")
        elif actions:
            yield Mistake(f"{path}.{actions[0]}", f"a rule with delegate must not specify {actions[0]}")
        return
    if not actions:
        yield Mistake(path, "HTTP route, redirect or directResponse is required", "write route: with a destination:")
    if len(actions) > 1:
        yield Mistake(f"{path}.{actions[1]}", f"HTTP route cannot contain both {actions[0]} and {actions[1]}")
    elif actions and actions != ["route"]:
        for name, given in (("fault", route.fault), ("rewrite", route.rewrite)):
            if given is not None:
                yield Mistake(f"{path}.{name}", f"HTTP route cannot contain both {name} and {actions[0]}")
    if route.mirror is not None and route.mirrors:
        yield Mistake(f"{path}.mirrors", "HTTP route cannot contain both mirror and mirrors")


def _match(match: HttpMatch, path: str) -> Iterator[Mistake]:
    yield from match_text(match.uri, f"{path}.uri", empty_prefix=True)
    for name in ("scheme", "method", "authority"):
        yield from match_text(getattr(match, name), f"{path}.{name}")
    yield from _match_headers(match.headers, f"{path}.headers")
    # `*` is presence here, not a regular expression (Istio).
    looked_at = {name: text for name, text in match.without_headers.items() if text.regex != "*"}
    yield from _match_headers(looked_at, f"{path}.withoutHeaders")
    for name, text in match.query_params.items():
        yield from match_text(text, child(f"{path}.queryParams", name))
    if match.port:
        yield from told(f"{path}.port", formats.port(match.port))
    yield from labels(match.source_labels, f"{path}.sourceLabels")
    yield from gateway_names(match.gateways, f"{path}.gateways")
    if match.source_namespace:
        yield from told(f"{path}.sourceNamespace", formats.label(match.source_namespace))


def _match_headers(headers: Mapping[str, StringMatch], path: str) -> Iterator[Mistake]:
    for name, text in headers.items():
        yield from told(child(path, name), formats.header_name(name))
        if text.regex != "*":
            yield from match_text(text, child(path, name))


def gateway_names(values: tuple[str, ...], path: str) -> Iterator[Mistake]:
    """`mesh`, a name, or `namespace/name`."""
    for index, value in enumerate(values):
        namespace, slash, name = value.partition("/")
        place = item(path, index)
        if not slash:
            yield from told(place, formats.fqdn(value))
            continue
        for part in (namespace, name):
            yield from told(place, formats.label(part))


def weighted(targets: Sequence[HttpRouteDestination | RouteDestination], path: str) -> Iterator[Mistake]:
    """Destinations are good, weights are not negative and do not sum up to nothing."""
    for index, target in enumerate(targets):
        place = item(path, index)
        yield from destination(target.destination, f"{place}.destination")
        if target.weight < 0:
            yield Mistake(f"{place}.weight", f"weight {target.weight} < 0")
    if len(targets) > 1 and sum(target.weight for target in targets) == 0:
        yield Mistake(path, "total destination weight = 0", "give each destination its weight, for example 50")


def _headers(headers: Headers | None, path: str) -> Iterator[Mistake]:
    if headers is not None:
        yield from _operations(headers.request, f"{path}.request", authority=True)
        yield from _operations(headers.response, f"{path}.response", authority=False)


def _operations(operations: HeaderOperations | None, path: str, *, authority: bool) -> Iterator[Mistake]:
    if operations is None:
        return
    for what, values in (("add", operations.add), ("set", operations.set)):
        for name, value in values.items():
            place = child(f"{path}.{what}", name)
            yield from told(place, formats.settable_header(name, authority) or formats.header_value(value))
    yield from each(operations.remove, f"{path}.remove", lambda name: formats.settable_header(name, authority=False))


def _authority_once(route: HttpRoute, path: str) -> Iterator[Mistake]:
    request = route.headers.request if route.headers else None
    written = [
        name for values in ((request.set, request.add) if request else ()) for name in values if formats.is_authority(name)
    ]
    if len(written) + bool(route.rewrite and route.rewrite.authority) > 1:
        yield Mistake(f"{path}.headers.request", "the authority cannot be set several times", "keep rewrite.authority")


def _fault(fault: HttpFault | None, path: str) -> Iterator[Mistake]:
    if fault is None:
        return
    if fault.abort is None and fault.delay is None:
        yield Mistake(path, "HTTP fault injection must have an abort and/or a delay")
    if fault.delay is not None:
        yield from _delay(fault.delay, f"{path}.delay")
    if fault.abort is not None:
        yield from _abort(fault.abort, f"{path}.abort")


def _delay(delay: FaultDelay, path: str) -> Iterator[Mistake]:
    if delay.percentage is not None:
        yield from percent(delay.percentage.value, f"{path}.percentage.value")
    yield from whole_percent(delay.percent, f"{path}.percent")
    if delay.exponential_delay is not None:
        yield Mistake(f"{path}.exponentialDelay", "exponentialDelay not supported yet", "use fixedDelay")


def _abort(abort: FaultAbort, path: str) -> Iterator[Mistake]:
    if abort.percentage is not None:
        yield from percent(abort.percentage.value, f"{path}.percentage.value")
    if abort.http_status is not None:
        yield from told(f"{path}.httpStatus", formats.http_status(abort.http_status))
    if abort.http2_error is not None:
        yield Mistake(f"{path}.http2Error", "HTTP/2 abort fault injection not supported yet", "use httpStatus")
    if abort.grpc_status is not None and abort.grpc_status not in GRPC_STATUSES:
        advice = did_you_mean(abort.grpc_status, GRPC_STATUSES)
        yield Mistake(f"{path}.grpcStatus", f'gRPC status "{abort.grpc_status}" is not supported', advice)


def _retries(retries: HttpRetry | None, path: str) -> Iterator[Mistake]:
    if retries is None:
        return
    if retries.attempts < 0:
        yield Mistake(f"{path}.attempts", "attempts cannot be negative")
    asked = retries.per_try_timeout is not None or retries.retry_on or retries.retry_remote_localities is not None
    if retries.attempts == 0 and asked:
        yield Mistake(path, "http retry policy configured when attempts are set to 0 (disabled)", "write attempts: 2")
    for word in filter(None, retries.retry_on.split(",")):
        advice = did_you_mean(word.strip(), formats.RETRY_CONDITIONS) if formats.retry_condition(word) else ""
        yield from told(f"{path}.retryOn", formats.retry_condition(word), advice)


def _redirect(redirect: HttpRedirect | None, matches: tuple[HttpMatch, ...], path: str) -> Iterator[Mistake]:
    if redirect is None:
        return
    port = redirect.port is not None or redirect.derive_port is not None
    if redirect.uri and redirect.prefix_rewrite:
        yield Mistake(f"{path}.prefixRewrite", "redirect may only specify one of uri or prefixRewrite")
    if redirect.prefix_rewrite and any(match.uri is not None and match.uri.prefix is None for match in matches):
        yield Mistake(f"{path}.prefixRewrite", "requires all URI matches to use prefix")
    if not (redirect.uri or redirect.prefix_rewrite or redirect.authority or redirect.scheme or port):
        yield Mistake(path, "redirect must specify URI, authority, scheme, or port")
    if redirect.redirect_code and redirect.redirect_code not in {301, 302, 303, 307, 308}:  # Envoy has no others
        yield Mistake(
            f"{path}.redirectCode", f"{redirect.redirect_code} is not a valid redirect code", "use 301, 302, 303, 307 or 308"
        )
    if redirect.scheme not in {"", "http", "https"}:
        yield Mistake(f"{path}.scheme", "invalid redirect scheme, must be http or https")
    if redirect.port:
        yield from told(f"{path}.port", formats.port(redirect.port))


def _rewrite(rewrite: HttpRewrite | None, path: str) -> Iterator[Mistake]:
    if rewrite is None:
        return
    expression = rewrite.uri_regex_rewrite
    if rewrite.uri and expression is not None:
        yield Mistake(f"{path}.uriRegexRewrite", "rewrite may only contain one of uri or uriRegexRewrite")
    if not rewrite.uri and not rewrite.authority and expression is None:
        yield Mistake(path, "rewrite must specify at least one of uri, uriRegexRewrite or authority")
    if expression is None:
        return
    if not expression.match or not expression.rewrite:
        yield Mistake(f"{path}.uriRegexRewrite", "requires both rewrite and match")
    else:
        yield from told(f"{path}.uriRegexRewrite.match", formats.regex(expression.match))


def _direct_response(response: HttpDirectResponse | None, path: str) -> Iterator[Mistake]:
    if response is None:
        return
    yield from told(f"{path}.status", formats.http_status(response.status))
    try:
        size = len(response.body.content()) if response.body else 0
    except ValueError:
        yield Mistake(f"{path}.body.bytes", "not base64")
        return
    if size > _MAX_BODY:
        yield Mistake(f"{path}.body", "the body must be less than 1MB")


def _mirrors(route: HttpRoute, path: str) -> Iterator[Mistake]:
    if route.mirror is not None:
        yield from destination(route.mirror, f"{path}.mirror")
    whole = route.mirror_percent if route.mirror_percent is not None else route.mirror_percent_snake
    yield from whole_percent(whole or 0, f"{path}.mirrorPercent")
    shares = [(route.mirror_percentage, f"{path}.mirrorPercentage")]
    for index, mirror in enumerate(route.mirrors):
        place = item(f"{path}.mirrors", index)
        yield from destination(mirror.destination, f"{place}.destination")
        shares.append((mirror.percentage, f"{place}.percentage"))
    for share, place in shares:
        if share is not None and not 0 <= share.value <= 100:
            yield Mistake(f"{place}.value", f"percentage {share.value} is not in range [0.0, 100.0]")


def _cors(policy: CorsPolicy | None, path: str) -> Iterator[Mistake]:
    if policy is None:
        return
    for index, origin in enumerate(policy.allow_origins):
        place = item(f"{path}.allowOrigins", index)
        if not (origin.exact or origin.prefix or origin.regex):
            yield Mistake(place, "needs exact, prefix or regex with a value")
        else:
            yield from match_text(origin, place)
    yield from each(policy.allow_methods, f"{path}.allowMethods", _cors_method)
    for name, headers in (("allowHeaders", policy.allow_headers), ("exposeHeaders", policy.expose_headers)):
        yield from each(headers, f"{path}.{name}", lambda header: "" if header == "*" else formats.plain_header_name(header))
    if policy.max_age is not None and policy.max_age % 1:
        yield Mistake(f"{path}.maxAge", "maxAge is accurate only to seconds", "write whole seconds")


def _cors_method(method: str) -> str:
    return "" if method in _CORS_METHODS else f'"{method}" is not a supported HTTP method'
