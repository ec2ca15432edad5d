"""All objects in force: those applied through the API, kept in SQLite, and those that files of a watched folder declare.

What a file declares wins over what was applied under the same name before, and only the file can change it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshlib.errors import ConfigurationError, SettingsError

from .errors import CannotStart
from .mistakes import InvalidObject
from .model import MeshObject, ObjectKey
from .sources.files import FileSource
from .store import Action, Change, ObjectStore, Past, StoreError

DATABASE = "objects.db"
FOLDER_AUTHOR = "the watched folder"

_log = logging.getLogger(__name__)


class Inventory:
    """Objects from both sources.

    Args:
        store: applied objects.
        source: the watched folder; None: there is none.
    """

    def __init__(self, store: ObjectStore, source: FileSource | None) -> None:
        self._store = store
        self._source = source
        self._told: tuple[str, ...] = ()

    @property
    def revision(self) -> int:
        """Of the store: grows with each applied change."""
        return self._store.revision

    @property
    def problems(self) -> Sequence[ConfigurationError]:
        """What is wrong in files of the folder now; their last good content stays in force."""
        return self._source.errors if self._source else ()

    def objects(self) -> Mapping[ObjectKey, MeshObject]:
        """Everything in force."""
        return {**self._store.objects(), **self._declared()}

    def apply(self, incoming: Sequence[MeshObject], author: str, *, dry_run: bool) -> Sequence[Change]:
        """Create or change objects, all or none.

        Raises:
            InvalidObject: one belongs to a file of the folder; nothing was changed.
            StoreError: the disk is full or the database damaged; nothing was changed.
        """
        for item in incoming:
            self._refuse_declared(item.key)
        return self._store.apply(incoming, author, dry_run=dry_run)

    def delete(self, key: ObjectKey, author: str) -> None:
        """Delete an object that was applied.

        Raises:
            InvalidObject: it belongs to a file of the folder.
            StoreError: the disk is full or the database damaged.
        """
        self._refuse_declared(key)
        self._store.delete(key, author)

    def history(self, key: ObjectKey | None = None, limit: int = 100) -> Sequence[Past]:
        """What was done under a name, or at all; newest first."""
        return self._store.history(key, limit)

    def note(self, action: Action, key: ObjectKey, author: str, details: Mapping[str, Any]) -> None:
        """Write down what is no change of an applied object. Raises StoreError."""
        self._store.note(action, key, author, details)

    @contextlib.asynccontextmanager
    async def watching(self, changed: Callable[[], None]) -> AsyncIterator[None]:
        """Follow the folder's files; `changed` is called after each change."""

        before = self._declared()

        def told_and_changed() -> None:
            nonlocal before
            self.tell_problems()
            self._note_files(before)
            before = self._declared()
            changed()

        if self._source is None:
            yield
            return
        self.tell_problems()
        async with self._source.watch(told_and_changed):
            yield

    def tell_problems(self) -> None:
        """Log what is wrong in the folder and was not wrong before."""
        now = tuple(map(str, self.problems))
        for text in now:
            if text not in self._told:
                _log.warning("%s; its last good content stays in force", text)
        self._told = now

    def _note_files(self, before: Mapping[ObjectKey, MeshObject]) -> None:
        """The history of what files declare. Nobody can be asked to wait: what cannot be written is logged."""
        for key, action, document, file in _differences(before, self._declared()):
            try:
                self._store.note(action, key, FOLDER_AUTHOR, document, file)
            except StoreError as error:
                _log.warning("%s; %s %s in %s is not in the history", error, key, action, file)

    def _declared(self) -> Mapping[ObjectKey, MeshObject]:
        return self._source.objects if self._source else {}

    def _refuse_declared(self, key: ObjectKey) -> None:
        owner = self._declared().get(key)
        if owner is not None:
            raise InvalidObject(
                f"{key} belongs to the file {owner.file} of the watched folder",
                suggestion=f"change {owner.file}, or remove it from there",
                file=owner.file,
                line=owner.lines.get("", 0),
            )


def _differences(
    before: Mapping[ObjectKey, MeshObject], after: Mapping[ObjectKey, MeshObject]
) -> Iterator[tuple[ObjectKey, Action, Mapping[str, Any], str]]:
    for key, found in after.items():
        if key not in before:
            yield key, Action.CREATED, found.raw, found.file
        elif found.raw != before[key].raw:
            yield key, Action.CONFIGURED, found.raw, found.file
    for key in before.keys() - after.keys():
        yield key, Action.DELETED, {}, before[key].file


@contextlib.contextmanager
def open_inventory(data: Path, config: Path | None) -> Iterator[Inventory]:
    """The objects kept in a data folder, and those of a watched folder.

    Raises:
        CannotStart: the database is damaged, the disk is full, or there is no such folder.
    """
    try:
        store = ObjectStore(data / DATABASE)
    except StoreError as error:
        raise CannotStart(str(error), f"ls -l {data}, or start with another folder: --data DIR") from error
    with contextlib.closing(store):
        try:
            source = FileSource(config) if config else None
        except SettingsError as error:
            raise CannotStart(str(error), f"mkdir -p {config}") from error
        yield Inventory(store, source)
