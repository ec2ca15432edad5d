"""The objects of the stand-alone control plane, in SQLite, with every revision that ever was.

Rule 1: an apply is one revision, or nothing at all: the transaction commits first, memory follows.
Rule 2: what is equal makes no revision. Equal means: the same document, the same lines, the same file.
Rule 3: an object keeps the time at which it was created for as long as it is not deleted.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from meshlib.errors import MeshError
from meshlib_control import objects
from meshlib_control.mistakes import InvalidObject
from meshlib_control.model import MeshObject, ObjectKey
from meshlib_control.yaml import Document

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS objects (
  grp TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  document TEXT NOT NULL, lines TEXT NOT NULL, file TEXT NOT NULL, source TEXT NOT NULL,
  revision INTEGER NOT NULL, created REAL NOT NULL,
  PRIMARY KEY (grp, kind, namespace, name)
);
CREATE TABLE IF NOT EXISTS history (
  id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, time REAL NOT NULL, author TEXT NOT NULL, action TEXT NOT NULL,
  grp TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  document TEXT NOT NULL, file TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS history_by_object ON history (grp, kind, namespace, name, id);
"""
_VERSION: Final = 1
_OF_OBJECT: Final = "WHERE grp=? AND kind=? AND namespace=? AND name=?"
_COLUMNS: Final = "revision, time, author, action, grp, kind, namespace, name, document, file"
_HISTORY: Final = f"SELECT {_COLUMNS} FROM history"  # noqa: S608  constants
_INTO_HISTORY: Final = f"INSERT INTO history ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"  # noqa: S608  constants


class StoreError(MeshError):
    """The database cannot be read or written; nothing has changed."""


class Action(StrEnum):
    """What was done, or tried. The first four are kubectl's words for what an apply does to an object."""

    CREATED = "created"
    CONFIGURED = "configured"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    ISSUED = "issued"  # a token
    REFUSED = "refused"  # somebody may not do this


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one object. `found` is the object after it, or before a deletion."""

    key: ObjectKey
    action: Action
    found: MeshObject


@dataclass(frozen=True, slots=True)
class Past:
    """One line of the history. `document` is empty for a deletion; `time` is seconds since the epoch."""

    revision: int
    time: float
    author: str
    action: Action
    key: ObjectKey
    document: Mapping[str, Any]
    file: str


class ObjectStore:
    """All objects, in memory for reading and in a file for keeping. Safe to call from several threads.

    Args:
        path: of the database; it is made if it is not there.
        clock: seconds since the epoch, for `created` and the history.

    Raises:
        StoreError: the file is damaged, of a newer version, or cannot be opened.
    """

    def __init__(self, path: Path | str, clock: Callable[[], float] = time.time) -> None:
        self.path = str(path)
        self._clock = clock
        self._lock = threading.RLock()
        self._revision = 0
        with self._told_apart("opened"):
            self._database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
                self._objects = dict(self._load())
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Closes the file; the store cannot be used after that."""
        with self._lock:
            self._database.close()

    @property
    def revision(self) -> int:
        """The newest revision; 0 before the first apply."""
        with self._lock:
            return self._revision

    def objects(self) -> Mapping[ObjectKey, MeshObject]:
        """Everything, as it is now: a copy that does not change."""
        with self._lock:
            return MappingProxyType(dict(self._objects))

    def get(self, key: ObjectKey) -> MeshObject | None:
        """An object, or None."""
        with self._lock:
            return self._objects.get(key)

    def list(self, kind: str = "", namespace: str = "", name: str = "") -> Sequence[MeshObject]:
        """Objects in order of kind, namespace and name; empty arguments mean any. The kind's letters may be of any case."""
        wanted = (kind.lower(), namespace, name)
        with self._lock:
            found = [one for key, one in self._objects.items() if _fits(key, wanted)]
        return sorted(found, key=lambda one: (one.key.kind, one.key.namespace, one.key.name))

    def apply(self, found: Sequence[MeshObject], author: str, *, dry_run: bool = False) -> Sequence[Change]:
        """Adds or changes objects: all of them or none.

        Args:
            author: who asked, for the history.
            dry_run: say what would happen, and do nothing.

        Raises:
            InvalidObject: the same object is there twice.
            StoreError: the disk is full or the file damaged.
        """
        _check_each_once(found)
        with self._lock:
            changes = [self._change(one) for one in found]
            return changes if dry_run else self._commit(changes, author)

    def delete(self, key: ObjectKey, author: str) -> Change | None:
        """Deletes an object; None if it is not there.

        Raises:
            StoreError: the disk is full or the file damaged; the object is still there.
        """
        with self._lock:
            found = self._objects.get(key)
            return self._commit([Change(key, Action.DELETED, found)], author)[0] if found else None

    def note(self, action: Action, key: ObjectKey, author: str, details: Mapping[str, Any], file: str = "") -> None:
        """Write down what is no change of an object kept here.

        Raises:
            StoreError: the disk is full or the file damaged.
        """
        with self._lock, self._told_apart("written"):
            row = (self._revision, self._clock(), author, action.value, *key, _json(details), file)
            self._database.execute(_INTO_HISTORY, row)

    def history(self, key: ObjectKey | None = None, limit: int = 100) -> Sequence[Past]:
        """What happened, newest first: to one object, or to all."""
        where, values = (_OF_OBJECT, tuple(key)) if key else ("", ())
        query = f"{_HISTORY} {where} ORDER BY id DESC LIMIT ?"
        with self._lock, self._told_apart("read"):
            return [_past(row) for row in self._database.execute(query, (*values, limit))]

    def _change(self, found: MeshObject) -> Change:
        before = self._objects.get(found.key)
        if before is None:
            return Change(found.key, Action.CREATED, replace(found, created=self._clock()))
        if (before.raw, before.lines, before.file) == (found.raw, found.lines, found.file):
            return Change(found.key, Action.UNCHANGED, before)
        return Change(found.key, Action.CONFIGURED, replace(found, created=before.created))

    def _commit(self, changes: Sequence[Change], author: str) -> Sequence[Change]:
        revision = self._revision + 1
        numbered = [_numbered(change, revision) for change in changes]
        real = [change for change in numbered if change.action is not Action.UNCHANGED]
        if real:
            with self._told_apart("written"), self._transaction():
                self._write(real, revision, author, self._clock())
            self._revision = revision
            self._remember(real)
        return numbered

    def _write(self, changes: Sequence[Change], revision: int, author: str, now: float) -> None:
        for change in changes:
            if change.action is Action.DELETED:
                self._database.execute(
                    "DELETE FROM objects WHERE grp=? AND kind=? AND namespace=? AND name=?", tuple(change.key)
                )
            else:
                self._database.execute("INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?,?,?,?,?,?)", _row(change.found))
            document = "" if change.action is Action.DELETED else _json(change.found.raw)
            row = (revision, now, author, change.action.value, *change.key, document, change.found.file)
            self._database.execute(_INTO_HISTORY, row)

    def _remember(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.action is Action.DELETED:
                del self._objects[change.key]
            else:
                self._objects[change.key] = change.found

    def _prepare(self) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise StoreError(f"the database {self.path} was written by a newer version: upgrade, or use another --data folder")
        (answer,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
        self._database.executescript(_SCHEMA)
        self._database.execute(f"PRAGMA user_version={_VERSION}")
        (self._revision,) = self._database.execute("SELECT coalesce(max(revision), 0) FROM history").fetchone()

    def _load(self) -> Iterator[tuple[ObjectKey, MeshObject]]:
        for row in self._database.execute("SELECT document, lines, file, source, namespace, revision, created FROM objects"):
            document, lines, file, source, namespace, revision, created = row
            (found,) = objects.read(Document(json.loads(document), json.loads(lines), file), namespace, source)
            yield found.key, replace(found, revision=revision, created=created)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _told_apart(self, what: str) -> Iterator[None]:
        """SQLite's errors as ours: what happened, that nothing has changed, and what to do."""
        try:
            yield
        except (sqlite3.Error, json.JSONDecodeError, InvalidObject) as error:
            if isinstance(error, InvalidObject) and what != "opened":
                raise
            raise StoreError(f"the database {self.path} cannot be {what}: {_advice(error, self.path)}") from error


def _advice(error: Exception, path: str) -> str:
    text = str(error)
    if "full" in text:
        return "the disk is full. Nothing has changed; free some space and try again"
    if "locked" in text:
        return "another process holds it. Nothing has changed; stop the other control plane"
    if "unable to open" in text or "readonly" in text:
        return f"{text}. Check that the folder exists and may be written to"
    return f"it is damaged ({text}). Move {path} away, start again, and apply your files anew"


def _check_each_once(found: Sequence[MeshObject]) -> None:
    first: dict[ObjectKey, MeshObject] = {}
    for one in found:
        other = first.setdefault(one.key, one)
        if other is not one:
            advice = f"it is also in {other.file}, line {other.lines.get('', 0)}: remove one of the two"
            raise InvalidObject(f"{one.key} is given twice", suggestion=advice, file=one.file, line=one.lines.get("", 0))


def _fits(key: ObjectKey, wanted: tuple[str, str, str]) -> bool:
    kind, namespace, name = wanted
    return kind in {"", key.kind.lower()} and namespace in {"", key.namespace} and name in {"", key.name}


def _numbered(change: Change, revision: int) -> Change:
    if change.action in {Action.UNCHANGED, Action.DELETED}:
        return change
    return replace(change, found=replace(change.found, revision=revision))


def _row(found: MeshObject) -> tuple[Any, ...]:
    document, lines = _json(found.raw), _json(found.lines)
    return (*found.key, document, lines, found.file, found.source, found.revision, found.created)


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(dict(data), ensure_ascii=False, separators=(",", ":"))


def _past(row: tuple[Any, ...]) -> Past:
    revision, time, author, action, grp, kind, namespace, name, document, file = row
    key = ObjectKey(grp, kind, namespace, name)
    return Past(revision, time, author, Action(action), key, json.loads(document) if document else {}, file)
