"""What an operator can do: apply, look, delete, analyze, explain, hand out tokens. No HTTP, no sockets.

Apply takes everything or nothing, and what is wrong in several files is told for all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any

from meshlib.errors import ConfigurationError, MeshError

from .analyze import analyze
from .ca_rotation import Replacing
from .configured import TYPES, asked_kinds
from .effective import findings as not_effective
from .intake import accept
from .inventory import Inventory
from .mistakes import InvalidObject
from .model import Finding, MeshObject, ObjectKey, World
from .presentation import change_data, finding_data, object_data, past_data, problem_data, resource_name
from .tokens import TokenIssuer


class Refused(MeshError):
    """Documents that cannot be applied. `errors` has at least one entry, in the order of the documents."""

    def __init__(self, errors: Sequence[ConfigurationError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


class NotFound(MeshError):
    """There is no such object, or client; `suggestion` is the next thing to do."""

    def __init__(self, text: str, suggestion: str = "") -> None:
        super().__init__(text)
        self.suggestion = suggestion


@dataclass(frozen=True, slots=True)
class Desk:
    """The operator's side of the control plane.

    Args:
        inventory: the objects in force.
        world: objects and services together, now.
        changed: called after each change.
        issuer: makes join tokens.
        proxies: rows of `ps`.
        explain: answers POST /v1/explain.
        rotation: replaces the authority.
        configurations: what the clients of a name were sent, by name and types; empty: nobody of that name is connected.
        clock: the time of day, UTC.
    """

    inventory: Inventory
    world: Callable[[], World]
    changed: Callable[[], None]
    issuer: TokenIssuer
    proxies: Callable[[], list[dict[str, Any]]]
    explain: Callable[[Any], dict[str, Any]]
    authorize: Callable[[Any], dict[str, Any]]
    configurations: Callable[[str, Sequence[str]], list[dict[str, Any]]]
    rotation: Replacing
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
            Refused: at least one document is wrong, or belongs to the watched folder; nothing was changed.
            StoreError: the disk does not take it; nothing was changed.
        """
        incoming, errors = read_manifests(manifests, namespace)
        if errors:
            raise Refused(errors)
        try:
            changes = self.inventory.apply(incoming, author, dry_run=dry_run)
        except InvalidObject as error:
            raise Refused([error]) from error
        if not dry_run:
            self.changed()
        return {
            "revision": self.revision,
            "changes": [change_data(change) for change in changes],
            "findings": _data(_idle(incoming)),
        }

    def delete(self, kind: str, namespace: str, name: str, author: str) -> str:
        """Delete an object. Returns its name as kubectl prints it.

        Raises:
            NotFound: there is none.
            Refused: it belongs to the watched folder.
            StoreError: the disk does not take it.
        """
        key = self._key(kind, namespace, name)
        try:
            self.inventory.delete(key, author)
        except InvalidObject as error:
            raise Refused([error]) from error
        self.changed()
        return resource_name(key)

    def objects(self, kind: str = "", namespace: str = "", name: str = "") -> list[dict[str, Any]]:
        """Objects with their status; empty arguments mean any."""
        world = self.world()
        findings = _about(world)
        return [
            object_data(item, findings) for key, item in sorted(world.objects.items()) if _is_asked(key, kind, namespace, name)
        ]

    def history(self, kind: str, namespace: str, name: str) -> list[dict[str, Any]]:
        """What happened to an object, newest first. Raises NotFound."""
        return [past_data(entry) for entry in self.inventory.history(self._key(kind, namespace, name))]

    def analyze(self) -> list[dict[str, Any]]:
        """Everything that `meshlib analyze` has to say about what is in force."""
        return [*(problem_data(error) for error in self.inventory.problems), *_data(_about(self.world()))]

    def configuration(self, name: str, types: str) -> list[dict[str, Any]]:
        """What the clients of a name were sent, acknowledged and should have; one entry per stream.

        Args:
            name: instance, `instance.namespace` or node id.
            types: `listener,route`; empty: all.

        Raises:
            NotFound: no such client is connected, or there is no such type.
        """
        try:
            found = self.configurations(name, tuple(asked_kinds(types)))
        except KeyError as error:
            raise NotFound(f"there is no type {error}; choose of {', '.join(TYPES)}") from error
        if not found:
            raise NotFound(f"no client {name} is connected", self._near(name))
        return found

    def _near(self, name: str) -> str:
        """Where to find the right name: instances often end with something that nobody types."""
        names = [row["name"] for row in self.proxies()]
        near = sorted({one for one in names if one.startswith(name)}) or get_close_matches(name, names)
        return f"{near[0]}  (all names: meshlib ps)" if near else "meshlib ps"

    def create_token(self, namespace: str, service_account: str, lifetime: timedelta, *, once: bool = False) -> dict[str, Any]:
        """A join token. Raises SettingsError for impossible names or lifetimes."""
        now = self.clock()
        token = self.issuer.create(namespace, service_account, now, lifetime, once=once)
        expires = (now + lifetime).replace(microsecond=0).isoformat().replace("+00:00", "Z")
        return {"token": token, "namespace": namespace, "serviceAccount": service_account, "expires": expires}

    def authority(self) -> dict[str, Any]:
        """The roots, and how far the replacement of one is."""
        return self.rotation.status()

    def rotate(self, *, hurry: bool) -> dict[str, Any]:
        """Begin to replace the root; with `hurry`, where that has begun, take the next step without waiting for anybody.

        Returns:
            as `authority`.

        Raises:
            SettingsError: a replacement is under way, and `hurry` is not set.
            CannotStart: the disk does not take it; nothing was changed.
        """
        if not (hurry and self.rotation.step(hurry=True)):
            self.rotation.begin()
        return self.authority()

    def _key(self, kind: str, namespace: str, name: str) -> ObjectKey:
        for key in self.inventory.objects():
            if _is_asked(key, kind, namespace, name):
                return key
        raise NotFound(f"there is no {kind} {namespace}/{name}")


def read_manifests(manifests: Iterable[tuple[str, str]], namespace: str) -> tuple[list[MeshObject], list[ConfigurationError]]:
    """The objects of several texts, and what is wrong with them: the first mistake of each text.

    An object that is in two texts is the later one's, as when they are applied one after the other.
    """
    found: dict[ObjectKey, MeshObject] = {}
    errors: list[ConfigurationError] = []
    for file, text in manifests:
        try:
            found |= {item.key: item for item in accept(text, file, namespace)}
        except ConfigurationError as error:
            errors.append(error)
    return list(found.values()), errors


def analyze_files(
    manifests: Iterable[tuple[str, str]], namespace: str
) -> tuple[list[dict[str, Any]], list[ConfigurationError]]:
    """Findings about texts alone, as data, and what cannot be read at all."""
    found, errors = read_manifests(manifests, namespace)
    return _data(_about(World(objects={item.key: item for item in found}))), errors


def _about(world: World) -> list[Finding]:
    return [*analyze(world), *_idle(world.objects.values())]


def _idle(items: Iterable[MeshObject]) -> list[Finding]:
    return list(not_effective(items))


def _is_asked(key: ObjectKey, kind: str, namespace: str, name: str) -> bool:
    wanted, _, group = kind.partition(".")
    return (
        (not kind or (key.kind.lower() == wanted.lower() and group in ("", key.group)))
        and (not namespace or key.namespace in (namespace, ""))
        and (not name or key.name == name)
    )


def _data(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [finding_data(finding) for finding in findings]
