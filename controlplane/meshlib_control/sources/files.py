"""A watched folder of YAML files.

Rule 1: a file that breaks keeps its last good content, and its error is reported until it is mended.
Rule 2: a file that goes takes its objects with it.
Rule 3: the same object in two files is an error of the one that came later; the first one counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from meshlib.errors import SettingsError
from meshlib_control.intake import accept
from meshlib_control.mistakes import InvalidObject
from meshlib_control.model import MeshObject, ObjectKey

SOURCE: Final = "files"
_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_QUIET: Final = 50  # milliseconds without a change before a look, as an editor writes in several steps
_LONGEST: Final = 400  # milliseconds until a look even if changes go on
_ANYWAY: Final = 2000  # milliseconds until a look without any change
_AGAIN: Final = 5.0  # seconds until a watch that failed is tried again

Changes = Callable[[Path], AsyncIterator[object]]


async def watch_changes(path: Path) -> AsyncIterator[object]:
    """Yields when it is worth looking at `path` again; what has changed is read from the files themselves.

    Also every two seconds: what is written while a watch begins is told to nobody.
    """
    from watchfiles import awatch  # here, because only a watched folder needs it

    async for changes in awatch(path, debounce=_LONGEST, step=_QUIET, rust_timeout=_ANYWAY, yield_on_timeout=True):
        yield changes


class FileSource:
    """A folder, and what its files said when they were last good. Read at once, and again by `refresh` or `watch`.

    Args:
        path: read with all folders below; hidden files and folders are left out.
        namespace: for objects that name none.
        clock: seconds since the epoch; an object is as old as its first appearance in this process.
        changes: yields when it is worth looking again.

    Raises:
        SettingsError: there is no such folder.
    """

    def __init__(
        self,
        path: Path | str,
        namespace: str = "default",
        clock: Callable[[], float] = time.time,
        changes: Changes = watch_changes,
    ) -> None:
        self.path = Path(path)
        self.namespace = namespace
        self.objects: Mapping[ObjectKey, MeshObject] = MappingProxyType({})
        self.errors: Sequence[InvalidObject] = ()
        self._clock = clock
        self._changes = changes
        self._good: dict[Path, Sequence[MeshObject]] = {}
        self._texts: dict[Path, str] = {}
        self._revision = 0
        if not self.path.is_dir():
            raise SettingsError(f"there is no folder {self.path}: make it, or name another one with --config")
        self.refresh()

    def refresh(self) -> bool:
        """Looks at the folder; whether anything is different now. A folder that has gone keeps its last good content."""
        before = (self.objects, tuple(map(str, self.errors)))
        if not self.path.is_dir():
            advice = "its last content stays in use until it is back"
            self.errors = (InvalidObject("the folder has gone", suggestion=advice, file=str(self.path)),)
        else:
            self._read(list(self._files()))
        return (self.objects, tuple(map(str, self.errors))) != before

    @contextlib.asynccontextmanager
    async def watch(self, changed: Callable[[], None]) -> AsyncIterator[None]:
        """Follows the folder meanwhile; `changed` is called after each change of objects or errors."""
        task = asyncio.create_task(self._follow(changed), name="watched folder")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _follow(self, changed: Callable[[], None]) -> None:
        while True:
            self._look(changed)
            try:
                async for _ in self._changes(self.path):
                    self._look(changed)
                    if not self.path.is_dir():
                        break
                else:
                    return
            except (OSError, RuntimeError) as error:  # the folder is not there, or the system has no watches left
                if self.path.is_dir():
                    self.errors = (*self.errors, _unwatched(self.path, error))
                    changed()
            await asyncio.sleep(_AGAIN)

    def _look(self, changed: Callable[[], None]) -> None:
        if self.refresh():
            changed()

    def _read(self, files: Sequence[Path]) -> None:
        self._good = {file: found for file, found in self._good.items() if file in files}
        errors: dict[Path, InvalidObject] = {}
        fresh: dict[Path, Sequence[MeshObject]] = {}
        for file in files:
            try:
                fresh[file] = self._parsed(file)
            except InvalidObject as error:
                errors[file] = error
        self._good = self._without_rivals(files, fresh, errors)
        self.objects = MappingProxyType({one.key: one for file in files for one in self._good[file]})
        self.errors = tuple(errors[file] for file in sorted(errors))

    def _files(self) -> Iterator[Path]:
        for file in sorted(self.path.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(self.path).parts)
            if file.suffix in _SUFFIXES and not hidden and file.is_file():
                yield file

    def _parsed(self, file: Path) -> Sequence[MeshObject]:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidObject(f"cannot be read: {error}", file=self._name(file)) from error
        if self._texts.get(file) == text and file in self._good:
            return self._good[file]
        found = accept(text, self._name(file), self.namespace, SOURCE)
        self._texts[file] = text
        self._revision += 1
        return [self._dated(one) for one in found]

    def _dated(self, found: MeshObject) -> MeshObject:
        before = self.objects.get(found.key)
        return replace(found, created=before.created if before else self._clock(), revision=self._revision)

    def _name(self, file: Path) -> str:
        return str(file.relative_to(self.path))

    def _without_rivals(
        self, files: Sequence[Path], fresh: Mapping[Path, Sequence[MeshObject]], errors: dict[Path, InvalidObject]
    ) -> dict[Path, Sequence[MeshObject]]:
        """Each object once. Files that have not changed come first: what works keeps working."""
        unchanged = [file for file in files if file in fresh and fresh[file] is self._good.get(file)]
        taken: dict[ObjectKey, MeshObject] = {}
        settled: dict[Path, Sequence[MeshObject]] = {}
        for file in [*unchanged, *(file for file in files if file not in unchanged)]:
            found = fresh.get(file)
            rival = next((one for one in found or () if one.key in taken), None)
            if rival is not None:
                errors[file] = _rivalry(rival, taken[rival.key])
                self._texts.pop(file, None)  # judged anew when the other file changes
            if found is None or rival is not None:
                found = [one for one in self._good.get(file, ()) if one.key not in taken]
            settled[file] = found
            taken |= {one.key: one for one in found}
        return settled


def _rivalry(second: MeshObject, first: MeshObject) -> InvalidObject:
    line = first.lines.get("", 0)
    return InvalidObject(
        f"{second.key} is in two files: {second.file} and {first.file}",
        suggestion=f"{first.file}:{line} counts: remove one of the two",
        file=second.file,
        line=second.lines.get("", 0),
    )


def _unwatched(path: Path, error: Exception) -> InvalidObject:
    advice = f"the folder is looked at again every {_AGAIN:.0f} seconds"
    return InvalidObject(f"changes cannot be followed: {error}", suggestion=advice, file=str(path))
