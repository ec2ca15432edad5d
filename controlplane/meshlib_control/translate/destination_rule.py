"""DestinationRule: which rules count for a client and a service, and what they say for a port and subset.

Rule 1: the client's namespace is asked first (unless it is the root namespace), then the service's, then the root namespace.
        The first that has a rule for the host decides; in it the most specific host (Istio: push_context.go).
Rule 2: rules for the same host, namespace and exportTo are one: subsets add up, of equal names the first counts; the first
        traffic policy counts (Istio: mergeDestinationRule).
Rule 3: a rule whose workloadSelector selects the client replaces the general ones, in the client's own namespace.
Rule 4: a subset's policy overrides the general one field by field; a port's policy replaces all fields at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshlib_control.index import rivals
from meshlib_control.kinds.destination_rule import (
    ClientTls,
    ConnectionPool,
    LoadBalancer,
    OutlierDetection,
    PortTrafficPolicy,
    RetryBudget,
    Subset,
    TrafficPolicy,
)
from meshlib_control.model import MeshObject, Node, ObjectKey, Service, World
from meshlib_control.translate.scope import selects, visible


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one port of one subset; None: the default."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    retry_budget: RetryBudget | None = None


@dataclass(frozen=True, slots=True)
class PlacedSubset:
    """A subset, and where it was written down."""

    subset: Subset
    item: MeshObject
    field: str


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules that count for a client and a host, merged.

    Args:
        items: the objects, oldest first; empty: there is no rule.
        policy: the traffic policy for all subsets, written in `policy_item`.
    """

    items: tuple[MeshObject, ...] = ()
    policy: TrafficPolicy | None = None
    policy_item: MeshObject | None = None
    subsets: tuple[PlacedSubset, ...] = ()

    @property
    def sources(self) -> tuple[ObjectKey, ...]:
        """The objects' keys."""
        return tuple(item.key for item in self.items)

    def subset(self, name: str) -> PlacedSubset | None:
        """A subset by name."""
        return next((placed for placed in self.subsets if placed.subset.name == name), None)

    def policy_for(self, port: int, subset: str) -> Policy:
        """What holds for a port and subset (rule 4); the defaults where nothing is said."""
        placed = self.subset(subset)
        general = _override(Policy(), self.policy, port)
        return _override(general, placed.subset.traffic_policy if placed else None, port)


def rules_for(world: World, node: Node, service: Service) -> RuleSet:
    """The rules that count for a client that calls a service; an empty set if there is none (rules 1 to 3)."""
    for namespace in _lookup_order(world, node, service):
        for _, items in rivals(world, "DestinationRule", service.hostname):
            here = [item for item in items if item.key.namespace == namespace and _may_use(item, node)]
            if here:
                return _merged(_selected(here))
    return RuleSet()


def _lookup_order(world: World, node: Node, service: Service) -> list[str]:
    own = [] if node.namespace == world.root_namespace else [node.namespace]
    return list(dict.fromkeys([*own, service.namespace, world.root_namespace]))


def _may_use(item: MeshObject, node: Node) -> bool:
    home = item.key.namespace
    if item.spec.workload_selector is not None:
        return home == node.namespace and selects(item.spec.workload_selector.match_labels, node.labels)
    return home == node.namespace or visible(item.spec.export_to, home, node.namespace)


def _selected(items: list[MeshObject]) -> list[MeshObject]:
    special = [item for item in items if item.spec.workload_selector is not None]
    chosen = special or items
    return [item for item in chosen if set(item.spec.export_to) == set(chosen[0].spec.export_to)]


def _merged(items: list[MeshObject]) -> RuleSet:
    subsets: dict[str, PlacedSubset] = {}
    for item in items:
        for index, subset in enumerate(item.spec.subsets):
            subsets.setdefault(subset.name, PlacedSubset(subset, item, f"spec.subsets[{index}]"))
    leading = next((item for item in items if item.spec.traffic_policy is not None), None)
    return RuleSet(
        items=tuple(items),
        policy=leading.spec.traffic_policy if leading else None,
        policy_item=leading,
        subsets=tuple(subsets.values()),
    )


def _override(base: Policy, policy: TrafficPolicy | None, port: int) -> Policy:
    if policy is None:
        return base
    for entry in policy.port_level_settings:
        if entry.port is not None and entry.port.number == port:
            return _policy(entry)
    return Policy(
        load_balancer=policy.load_balancer or base.load_balancer,
        connection_pool=policy.connection_pool or base.connection_pool,
        outlier_detection=policy.outlier_detection or base.outlier_detection,
        tls=policy.tls or base.tls,
        retry_budget=policy.retry_budget or base.retry_budget,
    )


def _policy(entry: PortTrafficPolicy) -> Policy:
    return Policy(entry.load_balancer, entry.connection_pool, entry.outlier_detection, entry.tls)
