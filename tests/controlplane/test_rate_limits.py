"""RateLimit and the EnvoyFilters for rate limits: what is refused, what they become, what is said to do nothing."""

from __future__ import annotations

from typing import Any

import pytest

from meshlib.config.decode import decode
from meshlib.config.policy import Filter, InboundListener
from meshlib.config.rate_limit import (
    OF_APPLICATION,
    Constant,
    GlobalRateLimit,
    HeadersMatch,
    HeaderValue,
    LocalRateLimit,
    MetadataValue,
    Named,
    PeerIdentity,
    TokenBucket,
)
from meshlib.config.subscription import Kind
from meshlib_control import effective
from meshlib_control.intake import accept
from meshlib_control.mistakes import InvalidObject
from meshlib_control.model import Node
from meshlib_control.names import inbound_name
from meshlib_control.translate import translate, wildcard_names
from meshlib_control.translate.http_filters import inbound_http_filters
from meshlib_control.translate.resources import CLUSTER, LISTENER
from tests.support import worlds


def kind(spec: str, name: str = "searches", namespace: str = "default") -> str:
    return f"apiVersion: meshlib.dev/v1\nkind: RateLimit\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"


def envoy_filter(patch: str, selector: str = "", namespace: str = "istio-system", name: str = "f") -> str:
    return (
        f"apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{{selector} configPatches: [{patch}]}}\n"
    )


LOCAL_URL = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
GLOBAL_URL = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit"
BUCKET = "token_bucket: {max_tokens: 4, tokens_per_fill: 4, fill_interval: 60s}"


def local(more: str = BUCKET, match: str = "context: SIDECAR_INBOUND", operation: str = "INSERT_BEFORE") -> str:
    config = f'{{"@type": {LOCAL_URL}, stat_prefix: l, {more}}}'
    value = f"{{name: envoy.filters.http.local_ratelimit, typed_config: {config}}}"
    return f"{{applyTo: HTTP_FILTER, match: {{{match}}}, patch: {{operation: {operation}, value: {value}}}}}"


def filters(*texts: str, node: Node | None = None) -> list[Filter]:
    """The rate limit filters of the port of a process that serves reviews."""
    asking = node or worlds.server()
    found = translate(worlds.world(*texts, nodes=[asking]), asking, LISTENER, inbound_name(asking.address, 7001))
    assert found is not None
    listener = decode(Kind.LISTENER, found.body)
    assert isinstance(listener, InboundListener)
    return [one for one in listener.filters if isinstance(one, LocalRateLimit | GlobalRateLimit)]


# RateLimit


@pytest.mark.parametrize(
    ("spec", "place", "words"),
    [
        ("{}", "spec", "one of local and global"),
        ("{local: {requests: 0, per: 1s}}", "spec.local.requests", "greater than or equal to 1"),
        ("{local: {requests: 1, per: 10ms}}", "spec.local.per", "50ms"),
        ("{local: {requests: 1, per: 1s}, global: {host: h, port: 1, domain: d}}", "spec.global", "only one of"),
        ("{local: {requests: 1, per: 1s}, keys: [{}]}", "spec.keys[0]", "says nothing"),
        ("{local: {requests: 1, per: 1s}, keys: [{peer: true}, {peer: true}]}", "spec.keys[1]", "twice"),
        ("{local: {requests: 1, per: 1s}, keys: [{header: a, query: b}]}", "spec.keys[0].query", "only one of"),
        ("{local: {requests: 1, per: 1s}, application: {}, match: {}}", "spec.match", "only one of"),
        ('{local: {requests: 1, per: 1s}, match: {path: {regex: "("}}}', "spec.match.path.regex", "regex"),
        ("{global: {host: '*', port: 99999, domain: d}}", "spec.global.port", "1-65535"),
    ],
)
def test_a_mistake_is_refused_with_its_place(spec: str, place: str, words: str) -> None:
    """As for every kind."""
    with pytest.raises(InvalidObject) as caught:
        accept(kind(spec), "f.yaml")
    assert caught.value.field == place
    assert words in str(caught.value)


def test_a_limit_for_all_requests_is_one_bucket() -> None:
    """The simplest: a bucket of the filter; burst is what it holds."""
    (found,) = filters(kind("{local: {requests: 100, per: 1m, burst: 20}}"))
    assert isinstance(found, LocalRateLimit)
    assert (found.bucket, found.named, found.rules) == (TokenBucket(20, 100, 60.0), (), ())
    assert (found.enabled, found.enforced, found.refused_headers) == (1.0, 1.0, (("x-local-rate-limit", "true"),))


def test_conditions_and_keys_make_a_descriptor() -> None:
    """Its name first, then each key; values are left open."""
    spec = "{match: {path: {exact: /a}}, keys: [{header: X-User}, {peer: true}, {claim: sub}], local: {requests: 1, per: 1s}}"
    (found,) = filters(kind(spec))
    assert isinstance(found, LocalRateLimit)
    entries = (("rate_limit", "searches.default"), ("x-user", ""), ("peer", ""), ("sub", ""))
    assert found.named == (Named(entries, TokenBucket(1, 1, 1.0)),)
    ((condition, *keys),) = found.rules
    assert isinstance(condition, HeadersMatch)
    payload = ("envoy.filters.http.jwt_authn", "payload", "sub")
    assert keys == [HeaderValue("x-user", "x-user"), PeerIdentity("peer"), MetadataValue("sub", payload)]
    assert (found.bucket, found.most_values) == (None, 1000)


def test_a_global_limit_names_the_service_of_the_mesh() -> None:
    """A short host is of the object's namespace."""
    (found,) = filters(kind("{global: {host: ratelimit, port: 8081, domain: d, failClosed: true}}"))
    assert isinstance(found, GlobalRateLimit)
    assert (found.target, found.domain, found.closed) == ("ratelimit.default.svc.cluster.local:8081", "d", True)
    assert (found.timeout, found.rules) == (0.02, ((Constant("rate_limit", "searches.default"),),))


def test_the_applications_limit_is_for_the_library_only() -> None:
    """An Envoy has no application to ask."""
    text = kind("{application: {keys: [user]}, local: {requests: 1, per: 1h}}")
    (found,) = filters(text)
    assert isinstance(found, LocalRateLimit)
    assert found.of_application
    assert found.rules[0][1] == MetadataValue("user", (OF_APPLICATION, "user"))
    names = [one["name"] for one in _envoy_filters(text)]
    assert not any("searches" in name for name in names)


def test_who_is_selected() -> None:
    """Labels; the object's namespace, or all from the root namespace; local ones come before global ones."""
    rest = "local: {requests: 1, per: 1s}"
    assert len(filters(kind(f"{{selector: {{matchLabels: {{app: reviews}}}}, {rest}}}"))) == 1
    assert filters(kind(f"{{selector: {{matchLabels: {{app: ratings}}}}, {rest}}}")) == []
    assert filters(kind(f"{{{rest}}}", namespace="other")) == []
    both = filters(kind("{global: {host: h, port: 1, domain: d}}", "a"), kind(f"{{{rest}}}", "b", "istio-system"))
    assert [type(one) for one in both] == [LocalRateLimit, GlobalRateLimit]


def test_grpcios_own_servers_get_none() -> None:
    """They have no such filter, and would refuse the listener."""
    assert filters(kind("{local: {requests: 1, per: 1s}}"), envoy_filter(local()), node=worlds.server(kind="grpc")) == []


# EnvoyFilter


def _envoy_filters(*texts: str) -> list[dict[str, Any]]:
    node = worlds.server(kind="envoy")
    return inbound_http_filters(worlds.world(*texts, nodes=[node]), node, 7001)


def test_where_a_filter_goes() -> None:
    """Without a neighbour it is the first; before the router it is behind authorization."""
    allow = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {rules: [{}]}\n"
    router = 'listener: {filterChain: {filter: {name: "%s", subFilter: {name: "envoy.filters.http.router"}}}}'
    before = local(match=router % "envoy.filters.network.http_connection_manager")
    rbac, limit, last = "envoy.filters.http.rbac", "envoy.filters.http.local_ratelimit", "envoy.filters.http.router"
    for patch, order in ((local(), [limit, rbac, last]), (before, [rbac, limit, last])):
        assert [one["name"] for one in _envoy_filters(allow, envoy_filter(patch))] == order


def test_the_rules_of_a_route_reach_the_filter() -> None:
    """Istio's sample with descriptors: settings and rules merged into the route of one port."""
    settings = f'{{"@type": {LOCAL_URL}, stat_prefix: r, {BUCKET}}}'
    value = (
        "{route: {rate_limits: [{actions: [{generic_key: {descriptor_value: g}}]}]},"
        f" typed_per_filter_config: {{envoy.filters.http.local_ratelimit: {settings}}}}}"
    )
    patch = (
        "{applyTo: HTTP_ROUTE, match: {context: SIDECAR_INBOUND, routeConfiguration: {vhost: {name: 'inbound|http|PORT'}}},"
        f" patch: {{operation: MERGE, value: {value}}}}}"
    )
    empty = local("status: {}")
    (found,) = filters(envoy_filter(f"{empty}, {patch.replace('PORT', '9080')}"))
    assert isinstance(found, LocalRateLimit)
    assert (found.bucket, found.rules) == (TokenBucket(4, 4, 60.0), ((Constant("generic_key", "g"),),))
    (other,) = filters(envoy_filter(f"{empty}, {patch.replace('PORT', '9081')}"))
    assert isinstance(other, LocalRateLimit)
    assert (other.bucket, other.enabled) == (None, 0.0)


def test_a_cluster_of_ones_own_is_an_address_for_the_library_and_a_cluster_for_envoy() -> None:
    """Istio's older sample: rate_limit_cluster."""
    cluster = (
        "{name: rate_limit_cluster, type: STRICT_DNS, connect_timeout: 10s, http2_protocol_options: {}, load_assignment:"
        " {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address:"
        " {socket_address: {address: rls, port_value: 8081}}}}]}]}}"
    )
    config = (
        f'{{"@type": {GLOBAL_URL}, domain: d, rate_limit_service: {{grpc_service: {{envoy_grpc: {{cluster_name: NAME}}}}}}}}'
    )
    patches = (
        "{applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND}, patch: {operation: INSERT_FIRST,"
        f" value: {{name: envoy.filters.http.ratelimit, typed_config: {config}}}}}}},"
        f" {{applyTo: CLUSTER, match: {{context: SIDECAR_OUTBOUND}}, patch: {{operation: ADD, value: {cluster}}}}}"
    )
    text = envoy_filter(patches.replace("NAME", "rate_limit_cluster"))
    assert list(effective.findings(accept(text, "f.yaml"))) == []
    (found,) = filters(text)
    assert isinstance(found, GlobalRateLimit)
    assert found.target == "rls:8081"
    node = worlds.server(kind="envoy")
    world = worlds.world(text, nodes=[node])
    assert "rate_limit_cluster" in wildcard_names(world, node, CLUSTER)
    assert worlds.decoded(translate(world, node, CLUSTER, "rate_limit_cluster")).connect_timeout.seconds == 10
    (lost,) = filters(envoy_filter(patches.replace("NAME", "nobody_cluster")))
    assert isinstance(lost, GlobalRateLimit)
    assert lost.target == "nobody_cluster.invalid:1"


def test_priority_then_the_root_namespace_decides_the_order() -> None:
    """Istio: lower priorities first; each new one goes to the front."""
    texts = [
        envoy_filter(local().replace("envoy.filters.http.local_ratelimit", name), f"priority: {priority},", namespace, name)
        for name, priority, namespace in (("a", 5, "default"), ("b", 0, "default"), ("c", 0, "istio-system"))
    ]
    assert [one["name"] for one in _envoy_filters(*texts)][:3] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (local(match="context: GATEWAY"), "GATEWAY is not effective yet"),
        (local(match="context: SIDECAR_OUTBOUND"), "only requests that arrive"),
        (local(match="proxy: {proxyVersion: '1.*'}"), "workloadSelector"),
        (local(match="listener: {name: other}"), "portNumber"),
        (local(match="listener: {filterChain: {sni: a}}"), "portNumber"),
        (local(operation="INSERT_AFTER"), "after the router"),
        (local(operation="REPLACE"), "REPLACE of HTTP_FILTER"),
        (local().replace(LOCAL_URL, "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"), "Lua"),
        (local("no_such_field: 1"), "no_such_field"),
        (local(f"{BUCKET}, local_rate_limit_per_downstream_connection: true"), "by connection"),
        (local("token_bucket: {max_tokens: 1, fill_interval: 0.001s}"), "50ms"),
        (local(f"{BUCKET}, response_headers_to_add: [{{header: {{key: a, value: '%REQ(b)%'}}}}]"), "commands"),
        (
            (
                "{applyTo: VIRTUAL_HOST, match: {routeConfiguration: {vhost: {name: 'a.com:80'}}},"
                " patch: {operation: MERGE, value: {rate_limits: []}}}"
            ),
            "inbound|http|PORT",
        ),
        ("{applyTo: VIRTUAL_HOST, patch: {operation: MERGE, value: {cors: {}}}}", "cors is not effective yet"),
        ("{applyTo: CLUSTER, patch: {operation: ADD, value: {name: a}}}", "an endpoint"),
        ("{applyTo: BOOTSTRAP, patch: {operation: MERGE, value: {a: b}}}", "only rate limits are"),
    ],
)
def test_whatever_is_not_obeyed_is_said_and_left_out(patch: str, words: str) -> None:
    """One finding at the patch, and nothing in the listener."""
    text = envoy_filter(patch)
    (finding,) = effective.findings(accept(text, "f.yaml"))
    assert (finding.field, finding.code) == ("spec.configPatches[0]", effective.NOT_EFFECTIVE)
    assert words in finding.message
    assert filters(text) == []
