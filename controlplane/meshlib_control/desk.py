"""What an operator can do: apply, look, delete, analyze, explain, hand out tokens. No HTTP, no sockets.

Rule 1: apply takes everything or nothing, and what would be refused in one document is told for all of them at once.
Rule 2: what a file of the watched folder declares, only that file can change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from meshlib.errors import ConfigurationError, MeshError

from . import objects as object_reader
from . import validate, yaml
from .analyze import analyze
from .effective import findings as not_effective
from .inventory import Inventory
from .model import Finding, MeshObject, ObjectKey, World
from .presentation import finding_data, object_data, resource_name
from .store import Change
from .tokens import TokenIssuer


class Refused(MeshError):
    """Documents that cannot be applied. `errors` has at least one entry, in the order of the documents."""

    def __init__(self, errors: Sequence[ConfigurationError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


class NotFound(MeshError):
    """There is no such object."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The operator's side of the control plane.

    Args:
        inventory: the objects in force.
        world: everything together, now.
        changed: called after each change.
        issuer: makes join tokens.
        proxies: rows of `ps`.
        explain: answers POST /v1/explain.
        clock: the time of day, UTC.
    """

    inventory: Inventory
    world: Callable[[], World]
    changed: Callable[[], None]
    issuer: TokenIssuer
    proxies: Callable[[], list[dict[str, Any]]]
    explain: Callable[[Any], dict[str, Any]]
    clock: Callable[[], datetime]

    @property
    def revision(self) -> int:
        """Grows with each change of an object."""
        return self.inventory.revision

    def apply(self, manifests: Sequence[tuple[str, str]], namespace: str, author: str, *, dry_run: bool) -> dict[str, Any]:
        """Create or change objects.

        Args:
            manifests: file names with their texts.
            namespace: for documents that name none.
            dry_run: check and compare only.

        Returns:
            `changes`, one per object, and `findings` about them.

        Raises:
            Refused: at least one document is wrong; nothing was changed.
            Conflict: an object belongs to a file of the watched folder.
            StorageFailure: the disk does not take it; nothing was changed.
        """
        incoming, errors = read_manifests(manifests, namespace)
        if errors:
            raise Refused(errors)
        changes = self.inventory.apply(incoming, author, dry_run=dry_run)
        if not dry_run:
            self.changed()
        return {"changes": [_change_data(change) for change in changes], "findings": _data(not_effective(incoming))}

    def delete(self, kind: str, namespace: str, name: str, author: str) -> str:
        """Delete an object. Returns its name as kubectl prints it.

        Raises:
            NotFound, Conflict, StorageFailure.
        """
        key = self._key(kind, namespace, name)
        self.inventory.delete(key, author)
        self.changed()
        return resource_name(key)

    def objects(self, kind: str = "", namespace: str = "", name: str = "") -> list[dict[str, Any]]:
        """Objects with their status; empty arguments mean any."""
        world = self.world()
        findings = [*analyze(world), *not_effective(world.objects.values())]
        return [
            object_data(item, [finding for finding in findings if finding.object == key])
            for key, item in sorted(world.objects.items())
            if _is_asked(key, kind, namespace, name)
        ]

    def analyze(self) -> list[dict[str, Any]]:
        """Everything that `meshlib analyze` has to say about what is in force."""
        world = self.world()
        return _data([*analyze(world), *not_effective(world.objects.values())])

    def create_token(self, namespace: str, service_account: str, lifetime: timedelta) -> dict[str, Any]:
        """A join token. Raises SettingsError for impossible names or lifetimes."""
        now = self.clock()
        token = self.issuer.create(namespace, service_account, now, lifetime)
        expires = (now + lifetime).replace(microsecond=0).isoformat().replace("+00:00", "Z")
        return {"token": token, "namespace": namespace, "serviceAccount": service_account, "expires": expires}

    def _key(self, kind: str, namespace: str, name: str) -> ObjectKey:
        for key in self.inventory.objects():
            if _is_asked(key, kind, namespace, name):
                return key
        raise NotFound(f"there is no {kind} {namespace}/{name}")


def read_manifests(
    manifests: Iterable[tuple[str, str]], namespace: str, source: str = "api"
) -> tuple[list[MeshObject], list[ConfigurationError]]:
    """The objects of several texts, and everything that is wrong with them."""
    found: list[MeshObject] = []
    errors: list[ConfigurationError] = []
    for file, text in manifests:
        try:
            documents = yaml.load(text, file)
        except ConfigurationError as error:
            errors.append(error)
            continue
        for document in documents:
            try:
                found += _checked(document, namespace, source)
            except ConfigurationError as error:
                errors.append(error)
    return found, errors


def _checked(document: yaml.Document, namespace: str, source: str) -> list[MeshObject]:
    read = object_reader.read(document, namespace, source)
    for item in read:
        validate.check(item)
    return read


def analyze_files(
    manifests: Iterable[tuple[str, str]], namespace: str
) -> tuple[list[dict[str, Any]], list[ConfigurationError]]:
    """Findings about texts alone, as data, and what cannot be read at all."""
    found, errors = read_manifests(manifests, namespace)
    world = World(objects={item.key: item for item in found})
    return _data([*analyze(world), *not_effective(found)]), errors


def _is_asked(key: ObjectKey, kind: str, namespace: str, name: str) -> bool:
    wanted, _, group = kind.partition(".")
    return (
        (not kind or (key.kind == wanted and group in ("", key.group)))
        and (not namespace or key.namespace in (namespace, ""))
        and (not name or key.name == name)
    )


def _change_data(change: Change) -> dict[str, Any]:
    key = change.key
    return {
        "resource": resource_name(key),
        "kind": key.kind,
        "namespace": key.namespace,
        "name": key.name,
        "action": change.action,
    }


def _data(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [finding_data(finding) for finding in findings]
