"""What a client was sent, acknowledged and should have, as plain data with stable names: the answer to `meshlib pc`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf import json_format

from meshlib.config.messages import TYPE_PREFIX, message

from .model import Node, Resource
from .presentation import STATES
from .translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET
from .xds.exchange import Entry
from .xds.server import Configuration

TYPES: Final = {"listener": LISTENER, "route": ROUTE, "cluster": CLUSTER, "endpoint": ENDPOINT, "secret": SECRET}
"""Types by the names that `istioctl pc` gives them."""


def is_called(node: Node, name: str) -> bool:
    """Whether a node is meant by a name: its instance, `instance.namespace` as istioctl writes it, or the whole id."""
    return name in {node.instance, f"{node.instance}.{node.namespace}", node.id}


def configuration_data(found: Configuration, kinds: Iterable[str], *, changing: bool) -> dict[str, Any]:
    """One stream's configuration.

    Args:
        kinds: which types, by their names in TYPES.
        changing: a change waits to be published, so `wanted` is about to change.
    """
    node = found.node
    return {
        "name": node.instance,
        "namespace": node.namespace,
        "id": node.id,
        "kind": node.kind,
        "client": node.version or node.kind,
        "variant": found.variant.value,
        "connectedSince": datetime.fromtimestamp(found.connected_since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "changing": changing,
        "resources": [_entry(kind, entry) for kind in kinds for entry in found.entries.get(TYPES[kind], ())],
    }


def _entry(kind: str, entry: Entry) -> dict[str, Any]:
    """`held` is what the client acknowledged; `wanted` what it should have, told apart only where they differ."""
    same = entry.accepted is not None and entry.wanted is not None and entry.accepted.version == entry.wanted.version
    # After a reconnect it names versions of what it holds; what has the wanted version is what is wanted.
    held = entry.accepted or (entry.wanted if not entry.unanswered and _holds_wanted(entry) else None)
    data = {
        "type": kind,
        "name": entry.name,
        "status": status_of(entry),
        "sentVersion": entry.sent,
        "wantedVersion": entry.wanted.version if entry.wanted else "",
        "held": body(held),
        "error": entry.error,
        "objects": [str(key) for key in entry.objects],
    }
    return data if same or held is entry.wanted else {**data, "wanted": body(entry.wanted)}


def _holds_wanted(entry: Entry) -> bool:
    return entry.wanted is not None and entry.sent == entry.wanted.version and not entry.error


def status_of(entry: Entry) -> str:
    """`synced`, `pending`, `rejected`; `absent` for what was asked for and does not exist."""
    if not entry.sent and entry.wanted is None and not entry.unanswered:
        return "absent"
    return STATES[entry.state]


def body(resource: Resource | None) -> dict[str, Any] | None:
    """A resource's message as JSON, in protobuf's mapping."""
    if resource is None:
        return None
    read = message(resource.type_url.removeprefix(TYPE_PREFIX)).FromString(resource.body)
    return dict(json_format.MessageToDict(read, descriptor_pool=read.DESCRIPTOR.file.pool))


def asked_kinds(text: str) -> Iterator[str]:
    """The types that a query names; all of them for none. Raises KeyError for an unknown one."""
    for kind in [part for part in text.split(",") if part] or TYPES:
        if kind not in TYPES:
            raise KeyError(kind)
        yield kind
