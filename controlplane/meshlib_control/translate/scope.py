"""Who sees and who is selected: exportTo, and selectors by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshlib_control.model import Service, World


def visibility(export_to: Sequence[str], home: str, client: str) -> int | None:
    """How an object of namespace `home` is shown to clients of namespace `client`, for ordering rivals.

    0: private to the client's namespace; 1: exported to it by name; 2: public; None: not visible.
    Istio: candidate order in VirtualServices(); no exportTo means public.
    """
    if not export_to or "*" in export_to:
        return 2
    named = {home if entry == "." else entry for entry in export_to}
    if client not in named:
        return None
    return 0 if client == home and set(export_to) <= {".", home} else 1


def visible(export_to: Sequence[str], home: str, client: str) -> bool:
    """Whether clients of namespace `client` may use an object of namespace `home`."""
    return visibility(export_to, home, client) is not None


def service_visible(world: World, service: Service, client: str) -> bool:
    """Whether clients of a namespace may call a service. Registered services are public."""
    declared = world.objects.get(service.origin) if service.origin else None
    return declared is None or visible(declared.spec.export_to, declared.key.namespace, client)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there. An empty selector selects everything."""
    return all(labels.get(name) == value for name, value in selector.items())
