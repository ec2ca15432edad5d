"""The last good configuration on disk, so that a service starts and serves while the control plane is down.

One file per listener with everything behind it, so that a file is a whole: `sha256` of the rest on the first line, JSON after
it. Workers of one service write the same files; replacing is atomic, so the last one wins and none is torn.
Nothing here fails: a full disk or a broken file costs the cache only, and is told once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from urllib.parse import quote

from meshlib.config.subscription import Item, Kind
from meshlib.errors import ConfigurationError
from meshlib.runtime.settings import Settings

FORMAT = 1
KEEP_SECONDS = 30 * 86400.0  # a listener nobody confirmed for that long is not worth starting with
_SUFFIX = ".cache"

_log = logging.getLogger("meshlib")

Decode = Callable[[Kind, str, str, bytes], Item]


def folder_of(settings: Settings) -> Path:
    """Where a workload keeps its copies; all clients of a namespace share theirs."""
    owner = settings.workload if settings.service else "client"
    return Path(settings.cache_dir) / f"{settings.namespace}.{owner}"


class DiskCache:
    """Bundles of raw resources in a folder.

    Args:
        folder: made with mode 0700 when first written.
        decode: kind, name, version, bytes -> Item; raises ConfigurationError.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, decode: Decode, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._decode = decode
        self._clock = clock
        self._write_failed = False
        self._kept: dict[str, object] = {}

    def keep(
        self,
        in_force: Mapping[str, object],
        absent: Set[str],
        resources_of: Callable[[str], Mapping[Kind, tuple[Item, ...]] | None],
    ) -> None:
        """Write what changed since the last call.

        Args:
            in_force: listeners with what stands for their content: the same object means no change.
            absent: listeners that do not exist.
            resources_of: all behind a listener; None while something is on its way, then the old file stays.
        """
        for name, value in in_force.items():
            resources = resources_of(name) if self._kept.get(name) is not value else None
            if resources is not None:
                self.store(name, resources)
                self._kept[name] = value
        for name in self._kept.keys() & absent:
            self.drop(name)
            del self._kept[name]

    def lacks(self, names: Set[str]) -> bool:
        """Whether one of these listeners was never written by this process."""
        return not names <= self._kept.keys()

    def store(self, listener: str, resources: Mapping[Kind, tuple[Item, ...]]) -> None:
        """Replace what is kept for a listener."""
        try:
            self._replace(self._path(listener), _to_bytes(listener, resources))
        except OSError as error:
            if not self._write_failed:
                _log.warning(
                    "meshlib: the configuration cannot be cached in %s: %s; going on without. "
                    "Free the disk or set MESHLIB_CACHE_DIR.",
                    self._folder,
                    error,
                )
            self._write_failed = True
        else:
            self._write_failed = False

    def drop(self, listener: str) -> None:
        """Keep nothing for a listener."""
        try:
            self._path(listener).unlink(missing_ok=True)
        except OSError as error:
            _log.debug("meshlib: %s stays in the cache: %s", listener, error)

    def load(self) -> dict[Kind, list[Item]]:
        """All that is kept, of whole and readable files; one warning names the others, which are removed."""
        found: dict[Kind, list[Item]] = {kind: [] for kind in Kind}
        broken: list[str] = []
        for path in self._files():
            try:
                for kind, items in self._read(path).items():
                    found[kind].extend(items)
            except (OSError, ValueError, KeyError, TypeError, ConfigurationError) as error:
                broken.append(f"{path.name} ({error})")
                _remove(path)
        if broken:
            _log.warning("meshlib: the cache %s is corrupt, ignored: %s", self._folder, ", ".join(broken))
        return found

    def _path(self, listener: str) -> Path:
        return self._folder / (quote(listener, safe="") + _SUFFIX)

    def _files(self) -> Iterator[Path]:
        oldest = self._clock() - KEEP_SECONDS
        try:
            paths = sorted(self._folder.glob(f"*{_SUFFIX}"))
            fresh = [path for path in paths if path.stat().st_mtime >= oldest]
        except OSError as error:
            _log.warning("meshlib: the cache %s cannot be read, ignored: %s", self._folder, error)
            return
        for path in set(paths).difference(fresh):
            _remove(path)
        yield from fresh

    def _replace(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            # No fsync: it costs more than the cache is worth, and the checksum finds what a power cut tore.
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:
            _remove(temporary)
            raise

    def _read(self, path: Path) -> dict[Kind, list[Item]]:
        digest, _, body = path.read_bytes().partition(b"\n")
        if digest.decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
            raise ValueError("the checksum is wrong")
        data = json.loads(body)
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']} is not known")
        found: dict[Kind, list[Item]] = {kind: [] for kind in Kind}
        for entry in data["resources"]:
            kind = Kind(entry["kind"])
            found[kind].append(self._decode(kind, entry["name"], entry["version"], _unbase64(entry["body"])))
        return found


def _to_bytes(listener: str, resources: Mapping[Kind, tuple[Item, ...]]) -> bytes:
    entries = [
        {"kind": kind.value, "name": item.name, "version": item.version, "body": base64.b64encode(item.raw).decode("ascii")}
        for kind, items in resources.items()
        for item in items
    ]
    body = json.dumps({"format": FORMAT, "listener": listener, "resources": entries}).encode()
    return hashlib.sha256(body).hexdigest().encode("ascii") + b"\n" + body


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a body is no base64: {error}") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.debug("meshlib: %s cannot be removed: %s", path, error)
