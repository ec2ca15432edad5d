"""Kubernetes' Role, ClusterRole and their bindings (rbac.authorization.k8s.io). Their content stands beside `metadata`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from meshlib_control.kinds.base import NonEmpty, Spec


class PolicyRule(Spec, frozen=True):
    """What may be done; `*` stands for everything. Without `resource_names` objects of every name are meant."""

    verbs: tuple[NonEmpty, ...]
    api_groups: tuple[str, ...] = ()
    resources: tuple[NonEmpty, ...] = ()
    resource_names: tuple[NonEmpty, ...] = ()
    non_resource_urls: tuple[NonEmpty, ...] = msgspec.field(default=(), name="nonResourceURLs")


class Role(Spec, frozen=True):
    """Rules for one namespace."""

    rules: tuple[PolicyRule, ...] = ()


class ClusterRole(Spec, frozen=True):
    """Rules for all namespaces, or for one where a RoleBinding names it."""

    rules: tuple[PolicyRule, ...] = ()
    aggregation_rule: Mapping[str, Any] = {}


class BoundSubject(Spec, frozen=True):
    """Who gets a role. `namespace` belongs to a ServiceAccount."""

    kind: Literal["User", "Group", "ServiceAccount"]
    name: NonEmpty
    namespace: str = ""
    api_group: str = ""


class RoleRef(Spec, frozen=True):
    """The role that is given."""

    kind: Literal["Role", "ClusterRole"]
    name: NonEmpty
    api_group: str = ""


class RoleBinding(Spec, frozen=True):
    """Gives a role to subjects, in its own namespace."""

    role_ref: RoleRef
    subjects: tuple[BoundSubject, ...] = ()


class ClusterRoleBinding(RoleBinding, frozen=True):
    """Gives a ClusterRole to subjects, everywhere."""
