from __future__ import annotations

import pytest

from meshlib.config.model import PeerMode
from meshlib_control.translate.peer_authentication import PeerRule, peer_rule
from tests.support.worlds import world

ROOT = "istio-system"
LABELS = {"app": "reviews", "version": "v1"}


def policy(mode: str | None, namespace: str = ROOT, name: str = "default", selector: str = "", ports: str = "") -> str:
    parts = [f"mtls: {{mode: {mode}}}"] if mode else []
    parts += [f"selector: {{matchLabels: {{{selector}}}}}"] if selector else []
    parts += [f"portLevelMtls: {{{ports}}}"] if ports else []
    head = f"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}"
    return f"{head}\nspec: {{{', '.join(parts)}}}\n---\n"


def rule(*texts: str, namespace: str = "default", port: int = 9080) -> PeerRule:
    return peer_rule(world(*texts), namespace, LABELS, port)


def test_nobody_said_anything() -> None:
    """PERMISSIVE, and no object is to blame."""
    assert rule() == PeerRule(PeerMode.PERMISSIVE, None, "")


MESH = policy("STRICT")
NAMESPACE = policy("DISABLE", "default")
WORKLOAD = policy("PERMISSIVE", "default", "reviews", "app: reviews")
PORT = policy("PERMISSIVE", "default", "reviews", "app: reviews", "9080: {mode: STRICT}")


@pytest.mark.parametrize(
    ("texts", "mode", "field"),
    [
        ((MESH,), PeerMode.STRICT, "spec.mtls"),
        ((MESH, NAMESPACE), PeerMode.DISABLE, "spec.mtls"),
        ((MESH, NAMESPACE, WORKLOAD), PeerMode.PERMISSIVE, "spec.mtls"),
        ((MESH, NAMESPACE, PORT), PeerMode.STRICT, "spec.portLevelMtls.9080"),
    ],
)
def test_port_beats_workload_beats_namespace_beats_mesh(texts: tuple[str, ...], mode: PeerMode, field: str) -> None:
    """And the rule says where it was written."""
    found = rule(*texts)
    assert (found.mode, found.field) == (mode, field)
    assert found.item is not None


def test_a_port_that_is_not_named_has_the_workloads_mode() -> None:
    """portLevelMtls is about workload ports."""
    assert rule(MESH, PORT, port=9081).mode is PeerMode.PERMISSIVE


@pytest.mark.parametrize(
    "silent",
    [policy("UNSET", "default"), policy(None, "default"), policy("UNSET", "default", "w", "app: reviews")],
)
def test_unset_inherits(silent: str) -> None:
    """As if the policy were not there."""
    found = rule(MESH, silent)
    assert found.mode is PeerMode.STRICT
    assert found.item is not None
    assert found.item.key.namespace == ROOT


def test_an_unset_port_has_the_workloads_mode() -> None:
    """Which may itself be inherited."""
    assert rule(MESH, policy(None, "default", "w", "app: reviews", "9080: {mode: UNSET}")).mode is PeerMode.STRICT
    assert rule(MESH, policy(None, "default", "w", "app: reviews", "9080: {mode: DISABLE}")).mode is PeerMode.DISABLE


def test_of_rivals_in_one_scope_the_oldest_wins() -> None:
    """In each scope by itself."""
    assert rule(policy("STRICT", name="b"), policy("DISABLE", name="a")).mode is PeerMode.STRICT
    old, new = (policy(mode, "default", name, "app: reviews") for mode, name in (("DISABLE", "z"), ("STRICT", "a")))
    assert rule(old, new).mode is PeerMode.DISABLE


def test_a_selector_that_does_not_select_does_not_count() -> None:
    """All its labels must be there."""
    assert rule(policy("STRICT", "default", "w", "app: reviews, version: v2")).mode is PeerMode.PERMISSIVE
    assert rule(policy("STRICT", "default", "w", "app: reviews, version: v1")).mode is PeerMode.STRICT


def test_a_selector_in_the_root_namespace_is_ignored() -> None:
    """Istio: there is no workload policy for the whole mesh."""
    assert rule(policy("STRICT", ROOT, "w", "app: reviews")).mode is PeerMode.PERMISSIVE
    assert rule(policy("STRICT", ROOT, "w", "app: reviews"), namespace=ROOT).mode is PeerMode.PERMISSIVE


def test_other_namespaces_do_not_count() -> None:
    """Only the workload's own and the root."""
    assert rule(policy("STRICT", "shop")).mode is PeerMode.PERMISSIVE
