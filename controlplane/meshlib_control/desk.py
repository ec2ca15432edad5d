"""What an operator can do: apply, look, delete, analyze, explain, hand out tokens. No HTTP, no sockets.

Each act asks the gate first, and what changes something is in the history, with its author.

Apply takes everything or nothing, and what is wrong in several files is told for all of them at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from meshlib.errors import ConfigurationError, MeshError

from .access.gate import Gate, about, gate
from .access.roles import Act, Subject
from .access.token_wish import TokenWish
from .access.words import OUR_GROUP, resource_of
from .analyze import analyze
from .ca_rotation import Replacing
from .configured import TYPES, asked_kinds
from .effective import findings as not_effective
from .intake import accept
from .inventory import Inventory
from .mistakes import InvalidObject
from .model import Finding, MeshObject, ObjectKey, World
from .presentation import change_data, finding_data, object_data, past_data, problem_data, resource_name
from .store import Action, StoreError
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
        edges: who talks to whom.
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
    edges: Callable[[], list[dict[str, Any]]]
    rotation: Replacing
    clock: Callable[[], datetime]

    @property
    def revision(self) -> int:
        """Grows with each change of an object."""
        return self.inventory.revision

    def apply(
        self, subject: Subject, manifests: Sequence[tuple[str, str]], namespace: str, client: str, *, dry_run: bool
    ) -> dict[str, Any]:
        """Create or change objects.

        Args:
            manifests: file names with their texts.
            namespace: for documents that name none.
            client: who typed, as the command says; goes into the history beside the subject.
            dry_run: check and compare only.

        Returns:
            `changes`, one per object, and `findings` about them.

        Raises:
            Refused: at least one document is wrong, or belongs to the watched folder; nothing was changed.
            Forbidden: the subject may not change one of them; nothing was changed.
            StoreError: the disk does not take it; nothing was changed.
        """
        incoming, errors = read_manifests(manifests, namespace)
        if errors:
            raise Refused(errors)
        self._gate(subject).require_write(incoming)
        try:
            changes = self.inventory.apply(incoming, _author(subject, client), dry_run=dry_run)
        except InvalidObject as error:
            raise Refused([error]) from error
        if not dry_run:
            self.changed()
        return {
            "revision": self.revision,
            "changes": [change_data(change) for change in changes],
            "findings": _data(_idle(incoming)),
        }

    def delete(self, subject: Subject, kind: str, namespace: str, name: str, client: str) -> str:
        """Delete an object. Returns its name as kubectl prints it.

        Raises:
            NotFound: there is none, or the subject may not see it.
            Forbidden: the subject may not delete it.
            Refused: it belongs to the watched folder.
            StoreError: the disk does not take it.
        """
        gate = self._gate(subject)
        key = self._key(gate, kind, namespace, name)
        gate.require(about("delete", key))
        try:
            self.inventory.delete(key, _author(subject, client))
        except InvalidObject as error:
            raise Refused([error]) from error
        self.changed()
        return resource_name(key)

    def objects(self, subject: Subject, kind: str = "", namespace: str = "", name: str = "") -> list[dict[str, Any]]:
        """Objects with their status, as far as the subject may see them; empty arguments mean any."""
        world, gate = self.world(), self._gate(subject)
        findings = _about(world)
        return [
            object_data(item, findings)
            for key, item in sorted(world.objects.items())
            if _is_asked(key, kind, namespace, name) and gate.visible(key)
        ]

    def history(self, subject: Subject, kind: str, namespace: str, name: str, limit: int) -> list[dict[str, Any]]:
        """What was done, and tried, newest first; empty arguments mean any.

        Args:
            limit: of lines that are looked at.
        """
        gate = self._gate(subject)
        entries = self.inventory.history(None, limit)
        return [past_data(one) for one in entries if _is_asked(one.key, kind, namespace, name) and gate.visible(one.key)]

    def analyze(self, subject: Subject) -> list[dict[str, Any]]:
        """What `meshlib analyze` has to say about what is in force, and the subject may see.

        Mistakes in the watched folder are told to everybody who may see all objects: they name no namespace.
        """
        gate = self._gate(subject)
        problems = self.inventory.problems if gate.allows(Act("list", "*", "*")) else ()
        visible = [one for one in _about(self.world()) if gate.visible(one.object)]
        return [*(problem_data(error) for error in problems), *_data(visible)]

    def connected(self, subject: Subject) -> list[dict[str, Any]]:
        """Rows of `ps`, as far as the subject may see them."""
        gate = self._gate(subject)
        return [row for row in self.proxies() if gate.allows(Act("list", OUR_GROUP, "proxies", row["namespace"]))]

    def talking(self, subject: Subject, namespace: str) -> list[dict[str, Any]]:
        """Who talks to whom, as far as the subject may see the clients.

        Args:
            namespace: of the clients; empty: any.
        """
        gate = self._gate(subject)
        return [
            edge
            for edge in self.edges()
            if namespace in ("", edge["client"]["namespace"])
            and gate.allows(Act("list", OUR_GROUP, "proxies", edge["client"]["namespace"]))
        ]

    def explained(self, subject: Subject, body: Any) -> dict[str, Any]:
        """Answers `explain`. Raises Forbidden."""
        gate = self._gate(subject)
        gate.require(Act("create", OUR_GROUP, "explanations", body.namespace))
        answer = self.explain(body)
        return answer if gate.allows(Act("create", OUR_GROUP, "authorizations", body.namespace)) else {**answer, "access": []}

    def authorized(self, subject: Subject, body: Any) -> dict[str, Any]:
        """Answers `authz check`. Raises Forbidden."""
        self._gate(subject).require(Act("create", OUR_GROUP, "authorizations", body.namespace))
        return self.authorize(body)

    def configuration(self, subject: Subject, name: str, types: str) -> list[dict[str, Any]]:
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
        gate = self._gate(subject)
        found = [one for one in found if gate.allows(Act("get", OUR_GROUP, "proxies", one["namespace"]))]
        if not found:
            raise NotFound(f"no client {name} is connected", _near(name, self.connected(subject)))
        return found

    def create_token(self, subject: Subject, wish: TokenWish) -> dict[str, Any]:
        """A token: to join the mesh with, or to ask the API with.

        Raises:
            SettingsError: impossible names or lifetimes.
            Forbidden: the subject may not make it.
            StoreError: the disk does not take the note in the history; there is no token then.
        """
        key = wish.key
        self._gate(subject).require(wish.act)
        now = self.clock()
        token = wish.sign(self.issuer, now)
        expires = (now + wish.lifetime).replace(microsecond=0).isoformat().replace("+00:00", "Z")
        answer = {"namespace": key.namespace, "serviceAccount": key.name, "expires": expires, "use": wish.use}
        self.inventory.note(Action.ISSUED, key, subject.name, answer)
        return {"token": token, **answer}

    def authority(self, subject: Subject) -> dict[str, Any]:
        """The roots, and how far the replacement of one is. Raises Forbidden."""
        self._gate(subject).require(Act("get", OUR_GROUP, "ca"))
        return self.rotation.status()

    def rotate(self, subject: Subject, *, hurry: bool) -> dict[str, Any]:
        """Begin to replace the root; with `hurry`, where that has begun, take the next step without waiting for anybody.

        Returns:
            as `authority`.

        Raises:
            SettingsError: a replacement is under way, and `hurry` is not set.
            CannotStart: the disk does not take it; nothing was changed.
            Forbidden: the subject may not do that.
        """
        self._gate(subject).require(Act("update", OUR_GROUP, "ca"))
        if not (hurry and self.rotation.step(hurry=True)):
            self.rotation.begin()
        return self.rotation.status()

    def _gate(self, subject: Subject) -> Gate:
        return gate(subject, self.inventory.objects(), self._note_refusal)

    def _note_refusal(self, subject: Subject, act: Act, text: str) -> None:
        key = ObjectKey(act.group, act.resource, act.namespace, act.name)
        with contextlib.suppress(StoreError):  # it is refused whether it can be written down or not
            self.inventory.note(Action.REFUSED, key, subject.name, {"verb": act.verb, "reason": text})

    def _key(self, gate: Gate, kind: str, namespace: str, name: str) -> ObjectKey:
        for key in self.inventory.objects():
            if _is_asked(key, kind, namespace, name) and gate.visible(key):
                return key
        raise NotFound(f"there is no {kind} {namespace}/{name}")


def _near(name: str, rows: Iterable[dict[str, Any]]) -> str:
    """Where to find the right name: instances often end with something that nobody types."""
    names = [row["name"] for row in rows]
    near = sorted({one for one in names if one.startswith(name)}) or get_close_matches(name, names)
    return f"{near[0]}  (all names: meshlib ps)" if near else "meshlib ps"


def _author(subject: Subject, client: str) -> str:
    """Who did it: the subject is proved, `client` is what the command said."""
    return f"{subject.name} ({client})" if client else subject.name


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
        (not kind or (resource_of(key.kind) == resource_of(wanted) and group in ("", key.group)))
        and (not namespace or key.namespace in (namespace, ""))
        and (not name or key.name == name)
    )


def _data(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [finding_data(finding) for finding in findings]
