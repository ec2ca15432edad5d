"""A watched folder of YAML files.

Rule 1: a file that breaks keeps its last good content, and its error is reported until it is mended.
Rule 2: a file that goes takes its objects with it.
Rule 3: the same object in two files is an error of the one that came later; the first one counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshlib.errors import SettingsError
from meshlib_control.intake import accept
from meshlib_control.mistakes import InvalidObject
from meshlib_control.model import MeshObject, ObjectKey

SOURCE: Final = "files"
_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_DEBOUNCE: Final = 100  # milliseconds of quiet after a change, as an editor writes in several steps


@dataclass(frozen=True, slots=True)
class FolderState:
    """What the folder says at one moment.

    Args:
        objects: of all good files, and the last good ones of broken files.
        errors: of broken files, in order of their names.
    """

    objects: tuple[MeshObject, ...] = ()
    errors: tuple[InvalidObject, ...] = ()


class Folder:
    """A folder, and what its files said when they were last good.

    Args:
        path: read with all folders below; hidden files and folders are left out.
        namespace: for objects that name none.

    Raises:
        SettingsError: there is no such folder.
    """

    def __init__(self, path: Path | str, namespace: str = "default") -> None:
        self.path = Path(path)
        self.namespace = namespace
        self._good: dict[Path, list[MeshObject]] = {}
        self._texts: dict[Path, str] = {}
        if not self.path.is_dir():
            raise SettingsError(f"there is no folder {self.path}: make it, or name another one with --config")

    def read(self) -> FolderState:
        """What the folder says now. A folder that has gone keeps its last good content."""
        if not self.path.is_dir():
            missing = InvalidObject("the folder has gone", suggestion="its last content stays in use", file=str(self.path))
            return FolderState(tuple(one for found in self._good.values() for one in found), (missing,))
        files = list(self._files())
        self._good = {file: found for file, found in self._good.items() if file in files}
        errors: dict[Path, InvalidObject] = {}
        fresh: dict[Path, list[MeshObject]] = {}
        for file in files:
            try:
                fresh[file] = self._parsed(file)
            except InvalidObject as error:
                errors[file] = error
        self._good = self._without_rivals(files, fresh, errors)
        return FolderState(
            objects=tuple(one for file in files for one in self._good.get(file, ())),
            errors=tuple(errors[file] for file in sorted(errors)),
        )

    def _files(self) -> Iterator[Path]:
        for file in sorted(self.path.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(self.path).parts)
            if file.suffix in _SUFFIXES and not hidden and file.is_file():
                yield file

    def _parsed(self, file: Path) -> list[MeshObject]:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidObject(f"cannot be read: {error}", file=self._name(file)) from error
        if self._texts.get(file) == text and file in self._good:
            return self._good[file]
        found = accept(text, self._name(file), self.namespace, SOURCE)
        self._texts[file] = text
        return found

    def _name(self, file: Path) -> str:
        return str(file.relative_to(self.path))

    def _without_rivals(
        self, files: list[Path], fresh: dict[Path, list[MeshObject]], errors: dict[Path, InvalidObject]
    ) -> dict[Path, list[MeshObject]]:
        """Each object once. Files that have not changed come first: what works keeps working."""
        unchanged = [file for file in files if file in fresh and fresh[file] is self._good.get(file)]
        taken: dict[ObjectKey, MeshObject] = {}
        settled: dict[Path, list[MeshObject]] = {}
        for file in [*unchanged, *(file for file in files if file not in unchanged)]:
            found = fresh.get(file)
            rival = next((one for one in found or () if one.key in taken), None)
            if rival is not None:
                errors[file] = _rivalry(rival, taken[rival.key])
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


async def watch_changes(path: Path) -> AsyncIterator[object]:
    """Something below `path` has changed; what, is read from the files themselves."""
    from watchfiles import awatch  # here, because only a watched folder needs it

    async for changes in awatch(path, debounce=_DEBOUNCE * 10, step=_DEBOUNCE, recursive=True):
        yield changes


async def states(
    folder: Folder, changes: Callable[[Path], AsyncIterator[object]] = watch_changes
) -> AsyncIterator[FolderState]:
    """What the folder says: at once, then after each change that makes a difference.

    Args:
        changes: yields when it is worth looking again.
    """
    state = folder.read()
    yield state
    async for _ in changes(folder.path):
        newer = folder.read()
        if _told(newer) != _told(state):
            state = newer
            yield state


def _told(state: FolderState) -> tuple[tuple[MeshObject, ...], tuple[str, ...]]:
    return state.objects, tuple(map(str, state.errors))
