"""All objects in force: those applied through the API, kept in SQLite, and those that files of a watched folder declare.

What a file declares wins over what was applied under the same name before, and only the file can change it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from meshlib.errors import ConfigurationError, MeshError

from .errors import CannotStart
from .model import MeshObject, ObjectKey
from .sources.files import FileSource
from .store import Change, ObjectStore

DATABASE = "objects.db"


class Conflict(MeshError):
    """The object belongs to a file of the watched folder."""


class StorageFailure(MeshError):
    """The change could not be written; what was there before stays in force."""


class Inventory:
    """Objects from both sources.

    Args:
        store: applied objects.
        source: the watched folder; None: there is none.
    """

    def __init__(self, store: ObjectStore, source: FileSource | None) -> None:
        self._store = store
        self._source = source

    @property
    def revision(self) -> int:
        """Of the store: grows with each applied change."""
        return self._store.revision

    @property
    def problems(self) -> Sequence[ConfigurationError]:
        """What is wrong in files of the folder now; their last good content stays in force."""
        return tuple(self._source.errors) if self._source else ()

    def declared(self) -> Mapping[ObjectKey, MeshObject]:
        """What the folder's files declare."""
        return self._source.objects if self._source else {}

    def objects(self) -> Mapping[ObjectKey, MeshObject]:
        """Everything in force."""
        return {**{item.key: item for item in self._store.list()}, **self.declared()}

    def apply(self, incoming: Sequence[MeshObject], author: str, *, dry_run: bool) -> list[Change]:
        """Create or change objects, all or none.

        Raises:
            Conflict, StorageFailure: nothing was changed.
        """
        for item in incoming:
            self._refuse_declared(item.key)
        with _storage_failures():
            return self._store.apply(list(incoming), author, dry_run=dry_run)

    def delete(self, key: ObjectKey, author: str) -> None:
        """Delete an applied object.

        Raises:
            Conflict, StorageFailure: it is still there.
        """
        self._refuse_declared(key)
        with _storage_failures():
            self._store.delete(key, author)

    @contextlib.asynccontextmanager
    async def watching(self, changed: Callable[[], None]) -> AsyncIterator[None]:
        """Follow the folder's files; `changed` is called after each change."""
        if self._source is None:
            yield
            return
        async with self._source.watch(changed):
            yield

    def _refuse_declared(self, key: ObjectKey) -> None:
        if key in self.declared():
            raise Conflict(f"{key} is declared in {self.declared()[key].file}: change it there")


@contextlib.contextmanager
def open_inventory(data: Path, config: Path | None) -> Iterator[Inventory]:
    """The objects kept in a data folder, and those of a watched folder.

    Raises:
        CannotStart: the database is damaged, or the disk is full.
    """
    path = data / DATABASE
    try:
        store = ObjectStore(path)
    except sqlite3.Error as error:
        raise CannotStart(
            f"the database {path} cannot be used: {error}",
            f"restore it from a backup, or move it away to start without objects: mv {path} {path}.broken",
        ) from error
    try:
        yield Inventory(store, FileSource(config) if config else None)
    finally:
        store.close()


@contextlib.contextmanager
def _storage_failures() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageFailure(f"the change could not be stored: {error}; nothing was changed") from error
