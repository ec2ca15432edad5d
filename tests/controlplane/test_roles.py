"""Roles: who may do what, as Kubernetes' RBAC decides."""

from __future__ import annotations

import pytest

from meshlib_control.access.gate import Forbidden, gate
from meshlib_control.access.roles import AUTHENTICATED, Act, Subject, grants_of
from meshlib_control.access.words import resource_of
from meshlib_control.intake import accept
from meshlib_control.mistakes import InvalidObject

ALICE = Subject("alice", frozenset({"dev", AUTHENTICATED}))
NETWORKING = "networking.istio.io"
RBAC = "rbac.authorization.k8s.io/v1"

ROUTER = f"""\
apiVersion: {RBAC}
kind: Role
metadata: {{name: router, namespace: shop}}
rules:
- apiGroups: [{NETWORKING}]
  resources: [virtualservices]
  verbs: [get, create, update]
"""


def binding(role: str, subject: str, namespace: str = "shop", kind: str = "ClusterRole") -> str:
    """A RoleBinding, or a ClusterRoleBinding for no namespace."""
    return f"""\
apiVersion: {RBAC}
kind: {"RoleBinding" if namespace else "ClusterRoleBinding"}
metadata: {{name: {role}-here{f", namespace: {namespace}" if namespace else ""}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: {role}}}
subjects: [{subject}]
"""


def objects(*texts: str):
    return {found.key: found for text in texts for found in accept(text)}


def may(
    subject: Subject, verb: str, resource: str, namespace: str, *texts: str, group: str = NETWORKING, name: str = ""
) -> bool:
    return grants_of(objects(*texts), subject).allows(Act(verb, group, resource, namespace, name))


def test_without_a_binding_nothing_is_allowed():
    """Also not looking."""
    assert not may(ALICE, "get", "virtualservices", "shop", ROUTER)


def test_the_group_of_the_admin_token_may_do_everything():
    """Kubernetes' system:masters."""
    assert may(Subject("admin", frozenset({"system:masters"})), "delete", "anything", "", group="any")


@pytest.mark.parametrize(
    "subject", ["{kind: User, name: alice}", "{kind: Group, name: dev}", "{kind: Group, name: 'system:authenticated'}"]
)
def test_a_binding_gives_a_role_in_its_namespace_only(subject):
    """By name, by group, or to everybody with a credential."""
    texts = (ROUTER, binding("router", subject, kind="Role"))
    assert may(ALICE, "create", "virtualservices", "shop", *texts)
    assert not may(ALICE, "create", "virtualservices", "default", *texts)
    assert not may(ALICE, "create", "virtualservices", "", *texts)
    assert not may(ALICE, "delete", "virtualservices", "shop", *texts)
    assert not may(ALICE, "create", "destinationrules", "shop", *texts)


def test_a_service_account_without_namespace_is_of_the_bindings_namespace():
    """And no other account of that name."""
    texts = (ROUTER, binding("router", "{kind: ServiceAccount, name: ci}", kind="Role"))
    assert may(Subject("system:serviceaccount:shop:ci"), "get", "virtualservices", "shop", *texts)
    assert not may(Subject("system:serviceaccount:default:ci"), "get", "virtualservices", "shop", *texts)


def test_a_cluster_binding_counts_everywhere():
    """`view` comes with the control plane."""
    texts = (binding("view", "{kind: User, name: alice}", namespace=""),)
    assert may(ALICE, "list", "authorizationpolicies", "shop", *texts, group="security.istio.io")
    assert not may(ALICE, "update", "authorizationpolicies", "shop", *texts, group="security.istio.io")
    assert not may(ALICE, "get", "secrets", "shop", *texts, group="")
    assert not may(ALICE, "get", "roles", "shop", *texts, group="rbac.authorization.k8s.io")


def test_resource_names_narrow_a_rule_to_these_objects():
    """Without a name nothing is allowed: a list would show the others."""
    narrow = ROUTER.replace("verbs: [", "resourceNames: [reviews]\n  verbs: [")
    texts = (narrow, binding("router", "{kind: User, name: alice}", kind="Role"))
    assert may(ALICE, "update", "virtualservices", "shop", *texts, name="reviews")
    assert not may(ALICE, "update", "virtualservices", "shop", *texts, name="ratings")
    assert not may(ALICE, "update", "virtualservices", "shop", *texts)


def test_a_role_that_is_not_there_gives_nothing():
    """A binding may come first."""
    assert not may(ALICE, "get", "virtualservices", "shop", binding("router", "{kind: User, name: alice}", kind="Role"))


@pytest.mark.parametrize("role", ["admin", "router"])
def test_nobody_gives_away_what_they_may_not_do(role):
    """An admin of a namespace binds what an admin may, in that namespace, and no more."""
    world = objects(ROUTER, binding("admin", "{kind: User, name: alice}"))
    refused: list[str] = []
    door = gate(ALICE, world, lambda _who, _act, why: refused.append(why))
    door.require_write(accept(binding(role, "{kind: User, name: bob}", kind="ClusterRole" if role == "admin" else "Role")))
    with pytest.raises(Forbidden, match='would give away what user "alice" may not do'):
        door.require_write(accept(binding("cluster-admin", "{kind: User, name: alice}")))
    with pytest.raises(Forbidden, match='cannot create resource "clusterrolebindings"'):
        door.require_write(accept(binding("view", "{kind: User, name: bob}", namespace="")))
    with pytest.raises(Forbidden, match="may not do"):
        door.require_write(accept(ROUTER.replace("[get, create, update]", "['*']")))
    assert len(refused) == 3


def test_a_role_and_its_binding_in_one_apply_are_judged_together():
    """Else the binding would name a role that gives nothing yet, and both would pass."""
    world = objects(binding("admin", "{kind: User, name: alice}"))
    greedy = ROUTER.replace(NETWORKING, "'*'").replace("[virtualservices]", "['*']")
    with pytest.raises(Forbidden):
        gate(ALICE, world, lambda *_: None).require_write(
            accept(f"{binding('router', '{kind: User, name: bob}', kind='Role')}---\n{greedy}")
        )


def test_a_refusal_reads_as_kubernetes_says_it():
    """Whoever searches for the words finds them."""
    door = gate(ALICE, {}, lambda *_: None)
    with pytest.raises(
        Forbidden,
        match=r'User "alice" cannot delete resource "virtualservices" "reviews" in API group "networking.istio.io" '
        r'in the namespace "shop"',
    ):
        door.require(Act("delete", NETWORKING, "virtualservices", "shop", "reviews"))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (ROUTER.replace("verbs", "verb"), "rules[0].verb"),
        (ROUTER.replace("verbs: [get, create, update]", "verbs: get"), "rules[0].verbs"),
        (binding("router", "{kind: Person, name: alice}"), "subjects[0].kind"),
        (binding("router", "{kind: User, name: alice}", namespace="", kind="Role"), "roleRef.kind"),
        (binding("router", "{kind: ServiceAccount, name: ci}", namespace=""), "subjects[0].namespace"),
    ],
)
def test_a_wrong_role_is_refused_with_its_place(text, field):
    """A typing error must not become a rule that nobody notices."""
    with pytest.raises(InvalidObject) as refusal:
        accept(text)
    assert refusal.value.field == field
    assert refusal.value.line > 0


@pytest.mark.parametrize(
    ("kind", "resource"),
    [
        ("VirtualService", "virtualservices"),
        ("ServiceEntry", "serviceentries"),
        ("Gateway", "gateways"),
        ("GatewayClass", "gatewayclasses"),
        ("AuthorizationPolicy", "authorizationpolicies"),
        ("Endpoints", "endpoints"),
        ("virtualservices", "virtualservices"),
    ],
)
def test_the_plural_of_a_kind_is_the_crds(kind, resource):
    """What rules call it."""
    assert resource_of(kind) == resource
