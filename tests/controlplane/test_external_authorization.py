"""CUSTOM: providers of the mesh configuration as the filters that ask them."""

from __future__ import annotations

from typing import Any

import pytest

from meshlib.config.messages import unpack
from meshlib_control import mesh_config
from meshlib_control.translate.authorization import custom_filters
from tests.controlplane.test_authorization import node, policy
from tests.support import worlds

CUSTOM = policy("custom", "action: CUSTOM, provider: {name: opa}, rules: [{}]")
HOST = "reviews.default.svc.cluster.local"
GRPC = f"{{name: opa, envoyExtAuthzGrpc: {{service: {HOST}, port: 9080}}}}"
HTTP = f"{{name: opa, envoyExtAuthzHttp: {{service: {HOST}, port: 9080, headersToUpstreamOnAllow: [x-*], timeout: 2s}}}}"


def providers(*texts: str) -> str:
    return f"""
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |-
    extensionProviders: [{", ".join(texts)}]
"""


def filters(*texts: str, kind: str = "library") -> list[tuple[str, Any]]:
    found = custom_filters(worlds.world(*texts), node(kind), 7001)
    return [(one["name"].rpartition(".")[2], unpack(one["typed_config"])) for one in found]


def test_a_provider_is_asked_about_what_shadow_rules_mark() -> None:
    """With Istio's names and prefixes; ten minutes, unless the provider says otherwise."""
    (marks, rbac), (asks, authz) = filters(CUSTOM, providers(GRPC))
    assert (marks, asks) == ("rbac", "ext_authz")
    assert list(rbac.shadow_rules.policies) == ["istio-ext-authz-opa-ns[default]-policy[custom]-rule[0]"]
    assert not rbac.HasField("rules")
    assert rbac.shadow_rules_stat_prefix == "istio_ext_authz_"
    when = authz.filter_enabled_metadata
    assert (when.filter, when.path[0].key) == ("envoy.filters.http.rbac", "istio_ext_authz_shadow_effective_policy_id")
    assert when.value.string_match.prefix == "istio-ext-authz-opa"
    assert authz.grpc_service.envoy_grpc.cluster_name == f"outbound|9080||{HOST}"
    assert authz.grpc_service.timeout.seconds == 600


def test_http_providers_say_which_headers_pass() -> None:
    """A star is a prefix or suffix, in any case of letters."""
    _, (_, authz) = filters(CUSTOM, providers(HTTP))
    (pattern,) = authz.http_service.authorization_response.allowed_upstream_headers.patterns
    assert (pattern.prefix, pattern.ignore_case) == ("x-", True)
    assert authz.http_service.server_uri.timeout.seconds == 2


@pytest.mark.parametrize(
    "given",
    [
        [CUSTOM],
        [CUSTOM, providers(GRPC.replace("opa", "other"))],
        [CUSTOM, providers(GRPC.replace("9080", "1"))],
        [CUSTOM, providers(GRPC.replace("reviews", "nobody"))],
        [CUSTOM, policy("b", "action: CUSTOM, provider: {name: b}, rules: [{}]"), providers(GRPC)],
    ],
)
def test_what_nobody_can_be_asked_about_is_refused(given: list[str]) -> None:
    """Unknown providers, services and ports, and several providers for one workload."""
    found = filters(*given)
    assert {name for name, _ in found} == {"rbac"}
    assert all(one.HasField("rules") and not one.HasField("shadow_rules") for _, one in found)
    assert all(name.endswith("-deny-due-to-bad-CUSTOM-action") for _, one in found for name in one.rules.policies)


def test_sound_providers_have_no_mistakes() -> None:
    """Neither by gRPC nor by HTTP."""
    text = providers(GRPC, HTTP.replace("opa", "other"))
    assert not list(mesh_config.mistakes(worlds.read(text, namespace="istio-system")[mesh_config.KEY]))


def test_grpcio_refuses_instead_of_asking() -> None:
    """It has no such filter."""
    assert [name for name, _ in filters(CUSTOM, providers(GRPC), kind="grpc")] == ["CUSTOM"]


@pytest.mark.parametrize(
    "wrong",
    [
        "{name: Opa}",
        f"{GRPC}, {GRPC}",
        GRPC.replace("port: 9080", "port: 0"),
        GRPC.replace("port: 9080", 'port: 1, statusOnError: "200"'),
        HTTP.replace("[x-*]", '["*"]'),
        HTTP.replace("timeout: 2s", "pathPrefix: check"),
    ],
)
def test_providers_with_mistakes_are_refused(wrong: str) -> None:
    """Names, ports, statuses that refuse nobody, names of headers, prefixes of paths."""
    text = providers(wrong)
    assert list(mesh_config.mistakes(worlds.read(text, namespace="istio-system")[mesh_config.KEY]))
