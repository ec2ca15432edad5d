"""The last good configuration on disk: whole files or none, and never a failure."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from meshlib.config.messages import message
from meshlib.config.subscription import Item, Kind
from meshlib.runtime import cache as module
from meshlib.runtime.cache import DiskCache
from meshlib.runtime.xds import item

BODY = message("envoy.config.endpoint.v3.ClusterLoadAssignment")(cluster_name="c").SerializeToString()
ASSIGNMENT = item(Kind.ASSIGNMENT, "c", "1", BODY)
RESOURCES = {Kind.ASSIGNMENT: (ASSIGNMENT,)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "default.reviews-v1"


@pytest.fixture
def cache(folder: Path) -> DiskCache:
    return DiskCache(folder, item)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_is_stored_comes_back(cache: DiskCache, folder: Path) -> None:
    """Another process reads the same resources; the folder is private."""
    cache.store("reviews:9080", RESOURCES)
    assert DiskCache(folder, item).load()[Kind.ASSIGNMENT] == [ASSIGNMENT]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_empty_cache_is_no_problem(cache: DiskCache, caplog: pytest.LogCaptureFixture) -> None:
    """The first start of a service."""
    assert not any(cache.load().values())
    assert told(caplog) == []


def test_dropping(cache: DiskCache) -> None:
    """What does not exist is not kept; dropping twice is dropping once."""
    cache.store("reviews:9080", RESOURCES)
    cache.drop("reviews:9080")
    cache.drop("reviews:9080")
    assert not any(cache.load().values())


def test_only_changes_are_written(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same object means no change; what is incomplete keeps its old file."""
    written: list[str] = []
    monkeypatch.setattr(cache, "store", lambda name, resources: written.append(name))
    first, second = object(), object()
    cache.keep({"a": first, "b": first}, set(), lambda name: RESOURCES if name == "a" else None)
    cache.keep({"a": first, "b": first}, set(), lambda name: RESOURCES)
    cache.keep({"a": second, "b": first}, set(), lambda name: RESOURCES)
    assert written == ["a", "b", "a"]


def test_absent_listeners_leave_the_disk(cache: DiskCache, folder: Path) -> None:
    """A service that is gone must not come back from the disk."""
    cache.keep({"reviews:9080": object()}, set(), lambda name: RESOURCES)
    cache.keep({}, {"reviews:9080"}, lambda name: RESOURCES)
    assert list(folder.iterdir()) == []


def valid(data: Any) -> bytes:
    body = json.dumps(data).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def entry(**changes: Any) -> dict[str, Any]:
    return {"kind": "EDS", "name": "c", "version": "1", "body": "", **changes}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00garbage",
        b"0" * 64 + b"\n{}",
        valid([]),
        valid({"format": 99, "resources": []}),
        valid({"format": 1}),
        valid({"format": 1, "resources": [entry(kind="XDS")]}),
        valid({"format": 1, "resources": [entry(body="%%%")]}),
        valid({"format": 1, "resources": [entry(body="/////w==")]}),
        valid({"format": 1, "resources": [entry()]}),
    ],
)
def test_a_corrupt_file_costs_one_warning(
    cache: DiskCache, folder: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """It is named, removed and ignored; whole files are used."""
    cache.store("ratings:9080", RESOURCES)
    (folder / "reviews%3A9080.cache").write_bytes(content)
    assert cache.load()[Kind.ASSIGNMENT] == [ASSIGNMENT]
    [warning] = told(caplog)
    assert "corrupt" in warning
    assert "reviews%3A9080.cache" in warning
    caplog.clear()
    cache.load()
    assert told(caplog) == []


def test_a_truncated_file_is_corrupt(cache: DiskCache, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The checksum finds what a power cut tore."""
    cache.store("reviews:9080", RESOURCES)
    [path] = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    assert not any(cache.load().values())
    assert "checksum" in told(caplog)[0]


def test_a_full_disk_is_told_once_and_when_it_comes_back(
    cache: DiskCache, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fails, the old file stays whole, no half file is left."""
    cache.store("reviews:9080", RESOURCES)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as half:
            half.write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        cache.store("reviews:9080", {})
        cache.store("ratings:9080", {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    [warning] = told(caplog)
    assert "No space left on device" in warning
    assert "MESHLIB_CACHE_DIR" in warning
    cache.store("ratings:9080", RESOURCES)
    assert len(cache.load()[Kind.ASSIGNMENT]) == 2


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file stands where the folder should be: a warning, no failure."""
    (tmp_path / "cache").write_text("in the way")
    cache = DiskCache(tmp_path / "cache" / "x", item)
    cache.store("reviews:9080", RESOURCES)
    assert not any(cache.load().values())
    assert "cannot be cached" in told(caplog)[0]


def test_what_nobody_confirmed_for_long_is_forgotten(folder: Path) -> None:
    """After a month the world has moved on."""
    DiskCache(folder, item).store("reviews:9080", RESOURCES)
    later = DiskCache(folder, item, clock=lambda: time.time() + module.KEEP_SECONDS + 1)
    assert not any(later.load().values())
    assert list(folder.iterdir()) == []


def test_names_are_safe_for_a_file_system(cache: DiskCache, folder: Path) -> None:
    """A host from a request cannot leave the folder."""
    cache.store("../../evil:80", RESOURCES)
    assert [path.parent for path in folder.iterdir()] == [folder]
    assert isinstance(cache.load()[Kind.ASSIGNMENT][0], Item)
