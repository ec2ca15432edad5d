"""Roles: from Role, ClusterRole and their bindings to a yes or no, as Kubernetes decides.

Rule 1: what no rule allows is forbidden. There are no rules that forbid.
Rule 2: the group `system:masters` may do everything; the admin token is in it.
Rule 3: nobody can give away what they may not do themselves (Kubernetes: privilege escalation prevention).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, NamedTuple

from meshlib_control.access.words import OUR_GROUP, resource_of
from meshlib_control.kinds import EXTENSIONS, GATEWAY_API, NETWORKING, RBAC, SECURITY, TELEMETRY, schema
from meshlib_control.kinds.access import BoundSubject, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding
from meshlib_control.model import MeshObject, ObjectKey

MASTERS: Final = "system:masters"
AUTHENTICATED: Final = "system:authenticated"

Objects = Mapping[ObjectKey, MeshObject]


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks.

    Args:
        name: `alice`, `system:serviceaccount:shop:ci`.
        groups: `system:authenticated` is among them always.
    """

    name: str
    groups: frozenset[str] = frozenset({AUTHENTICATED})


class Act(NamedTuple):
    """What somebody wants to do.

    Args:
        group, resource: `networking.istio.io`, `virtualservices`.
        namespace: empty: in all of them, or of none.
        name: empty: whatever its name.
    """

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        named = f' "{self.name}"' if self.name else ""
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        return f'{self.verb} resource "{self.resource}"{named} in API group "{self.group}" {where}'


class Grant(NamedTuple):
    """A rule that holds for somebody in a namespace; empty: in all."""

    namespace: str
    rule: PolicyRule

    def allows(self, act: Act) -> bool:
        """Whether the rule names the act."""
        rule = self.rule
        return (
            self.namespace in ("", act.namespace)
            and _names(rule.verbs, act.verb)
            and _names(rule.api_groups, act.group)
            and _names_resource(rule.resources, act.resource)
            and (not rule.resource_names or act.name in rule.resource_names)
        )


@dataclass(frozen=True, slots=True)
class Grants:
    """Everything that one subject may do."""

    grants: tuple[Grant, ...]

    def allows(self, act: Act) -> bool:
        """Whether they may."""
        return any(grant.allows(act) for grant in self.grants)

    def missing(self, rules: Iterable[PolicyRule], namespace: str) -> Act | None:
        """The first act among these rules that they may not do themselves; None: they may do all of it."""
        return next((act for rule in rules for act in _acts(rule, namespace) if not self.allows(act)), None)


def grants_of(objects: Objects, subject: Subject) -> Grants:
    """What a subject may do, given the roles and bindings among `objects`."""
    if MASTERS in subject.groups:
        return Grants((Grant("", _EVERYTHING),))
    return Grants(tuple(_granted(objects, subject)))


def given_by(objects: Objects, found: MeshObject) -> tuple[PolicyRule, ...]:
    """The rules that a Role, a ClusterRole or a binding gives to somebody; none for other objects."""
    match found.key.group, found.key.kind:
        case (group, "Role" | "ClusterRole") if group == RBAC:
            return _content(found).rules  # type: ignore[no-any-return]
        case (group, "RoleBinding" | "ClusterRoleBinding") if group == RBAC:
            return _rules_of(objects, _content(found), found.key.namespace)
    return ()


def content_kind(key: ObjectKey) -> type[Role | ClusterRole | RoleBinding] | None:
    """The struct of what stands beside an object's metadata; None for kinds that have a spec."""
    return _KINDS.get(key.kind) if key.group == RBAC else None


def content(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside an object's metadata."""
    return {name: value for name, value in raw.items() if name not in ("apiVersion", "kind", "metadata")}


_KINDS: Final = {kind.__name__: kind for kind in (Role, ClusterRole, RoleBinding, ClusterRoleBinding)}


def _granted(objects: Objects, subject: Subject) -> Iterator[Grant]:
    for key, found in objects.items():
        if key.group == RBAC and key.kind in ("RoleBinding", "ClusterRoleBinding"):
            binding: RoleBinding = _content(found)
            if any(_is(subject, one, key.namespace) for one in binding.subjects):
                yield from (Grant(key.namespace, rule) for rule in _rules_of(objects, binding, key.namespace))


def _is(subject: Subject, bound: BoundSubject, namespace: str) -> bool:
    match bound.kind:
        case "User":
            return subject.name == bound.name
        case "Group":
            return bound.name in subject.groups
    return subject.name == f"system:serviceaccount:{bound.namespace or namespace}:{bound.name}"


def _rules_of(objects: Objects, binding: RoleBinding, namespace: str) -> tuple[PolicyRule, ...]:
    reference = binding.role_ref
    where = namespace if reference.kind == "Role" else ""
    found = objects.get(ObjectKey(RBAC, reference.kind, where, reference.name))
    if found is not None:
        return _content(found).rules  # type: ignore[no-any-return]
    return BUILT_IN.get(reference.name, ()) if reference.kind == "ClusterRole" else ()


def _content(found: MeshObject) -> Any:
    kind = content_kind(found.key)
    assert kind is not None, "asked for kinds of RBAC only"
    return schema.build(kind, content(found.raw))


def _acts(rule: PolicyRule, namespace: str) -> Iterator[Act]:
    for verb, group, resource, name in product(rule.verbs, rule.api_groups, rule.resources, rule.resource_names or ("",)):
        yield Act(verb, group, resource, namespace, name)


def _names(values: Collection[str], wanted: str) -> bool:
    return "*" in values or wanted in values


def _names_resource(values: Collection[str], wanted: str) -> bool:
    _, slash, part = wanted.partition("/")
    return _names(values, wanted) or (bool(slash) and f"*/{part}" in values)


_READ: Final = ("get", "list", "watch")
_WRITE: Final = ("create", "update", "patch", "delete")
_MESH: Final = (NETWORKING, SECURITY, TELEMETRY, EXTENSIONS, GATEWAY_API)
_KEPT: Final = tuple(map(resource_of, ("Service", "ServiceAccount", "Pod", "ConfigMap", "Endpoints", "Namespace", "Node")))

_EVERYTHING: Final = PolicyRule(verbs=("*",), api_groups=("*",), resources=("*",))
_VIEW: Final = (
    PolicyRule(verbs=_READ, api_groups=_MESH, resources=("*",)),
    PolicyRule(verbs=_READ, api_groups=("",), resources=_KEPT),
    PolicyRule(verbs=_READ, api_groups=(OUR_GROUP,), resources=("proxies", "ratelimits")),
    PolicyRule(verbs=("create",), api_groups=(OUR_GROUP,), resources=("explanations", "authorizations")),
)
_EDIT: Final = (
    *_VIEW,
    PolicyRule(verbs=_WRITE, api_groups=_MESH, resources=("*",)),
    PolicyRule(verbs=_WRITE, api_groups=("",), resources=_KEPT),
    PolicyRule(verbs=_WRITE, api_groups=(OUR_GROUP,), resources=("ratelimits",)),
)
_ADMIN: Final = (
    *_EDIT,
    PolicyRule(verbs=(*_READ, *_WRITE), api_groups=(RBAC,), resources=("roles", "rolebindings")),
    PolicyRule(verbs=("create",), api_groups=("",), resources=("serviceaccounts/token",)),
)

BUILT_IN: Final[Mapping[str, tuple[PolicyRule, ...]]] = {
    "cluster-admin": (_EVERYTHING,),
    "admin": _ADMIN,
    "edit": _EDIT,
    "view": _VIEW,
}
"""Kubernetes' four roles for people, for the kinds of a mesh. An object of the same name takes the place of one."""
