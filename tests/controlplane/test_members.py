"""After a restart of the control plane nobody loses an endpoint before its owner had time to come back."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

import pytest

from meshlib_control import members
from meshlib_control.members import FILE, decoded, encoded, grace, kept, recall
from meshlib_control.registry import Registry
from tests.support.worlds import client, host, server

REVIEWS = host("reviews")


def restarted(folder: Path, outage: float = 0.0) -> tuple[Registry, float]:
    registry = Registry()
    return registry, recall(registry, folder, lambda: (folder / FILE).stat().st_mtime + outage)


def left_behind(folder: Path, *nodes: object) -> None:
    (folder / FILE).write_bytes(encoded(nodes))  # type: ignore[arg-type]


def ports(registry: Registry) -> list[int]:
    service = registry.world({}).services.get(REVIEWS)
    return [instance.port for instance in service.instances[9080]] if service else []


@pytest.mark.parametrize(("outage", "seconds"), [(-5, 10), (0, 10), (12.5, 12.5), (30, 30), (86400, 30)])
def test_the_grace_follows_the_outage(outage: float, seconds: float) -> None:
    """Who was away for long tries again seldom; a clock that was set back is no reason for less."""
    assert grace(outage) == seconds


def test_every_fact_about_a_node_is_kept() -> None:
    """Labels decide subsets, localities decide balancing, accounts decide who may answer."""
    nodes = [server(), server("ratings", kind="envoy", address="10.1.2.3"), client(app="x")]
    assert decoded(encoded(nodes)) == nodes


def test_former_members_count_until_they_are_back(tmp_path: Path) -> None:
    """Each replaces what it was; nobody is there twice."""
    left_behind(tmp_path, server(port=7001), server(port=7002))
    registry, seconds = restarted(tmp_path)
    assert (ports(registry), registry.nodes, seconds) == ([7001, 7002], (), 10.0)
    registry.connect("1", server(port=7002, version="v2"))  # a new process at an old address
    registry.connect("2", server(port=7001))
    assert ports(registry) == [7001, 7002]
    assert registry.forget_remembered() == 1
    assert ports(registry) == [7001, 7002]
    registry.disconnect("2")
    assert ports(registry) == [7002]


def test_who_does_not_come_back_is_gone_after_the_grace(tmp_path: Path) -> None:
    """And everybody is told."""
    left_behind(tmp_path, server(port=7001))
    registry, _ = restarted(tmp_path)
    told: list[None] = []
    registry.on_change(lambda: told.append(None))
    assert registry.forget_remembered() == 1
    assert (ports(registry), len(told)) == ([], 1)
    assert registry.forget_remembered() == 0
    assert len(told) == 1


def test_nobody_takes_back_what_another_identity_announced(tmp_path: Path) -> None:
    """A node chooses its id, not its identity."""
    left_behind(tmp_path, server(port=7001))
    registry, _ = restarted(tmp_path)
    registry.connect("thief", server(port=7009, id=server(port=7001).id, spiffe_id="spiffe://cluster.local/ns/default/sa/x"))
    assert ports(registry) == [7001, 7009]


async def test_who_is_there_is_on_disk_soon_and_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control plane that is killed leaves what it knew a moment before; the file's time says when it was last alive."""
    monkeypatch.setattr(members, "PERIOD", 0.01)
    registry = Registry()
    async with kept(registry, tmp_path, 60.0):
        registry.connect("1", server(port=7001))
        async with asyncio.timeout(5):
            while not (tmp_path / FILE).exists() or len(decoded((tmp_path / FILE).read_bytes())) < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        os.utime(tmp_path / FILE, (1.0, 1.0))
        async with asyncio.timeout(5):
            while (tmp_path / FILE).stat().st_mtime < time.time() - 60:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


async def test_who_leaves_together_with_the_control_plane_is_not_kept(tmp_path: Path) -> None:
    """Or a mesh that is stopped and started again would begin with endpoints that nobody serves."""
    registry = Registry()
    async with kept(registry, tmp_path, 60.0):
        registry.connect("stays", server(port=7001))
        registry.connect("leaves", server(port=7002))
        asyncio.get_running_loop().call_later(0.1, registry.disconnect, "leaves")
    assert [node.registrations[0].target_port for node in decoded((tmp_path / FILE).read_bytes())] == [7001]


async def test_a_second_restart_during_the_grace_loses_nobody(tmp_path: Path) -> None:
    """Those who are still on their way are kept as well."""
    left_behind(tmp_path, server(port=7001), server(port=7002))
    registry, seconds = restarted(tmp_path)
    async with kept(registry, tmp_path, seconds):
        registry.connect("1", server(port=7001))
    again, _ = restarted(tmp_path)
    assert ports(again) == [7001, 7002]


@pytest.mark.parametrize("content", [b"", b"\x00", b'[{"id": 1}]', b'{"id": "x"}'])
def test_a_damaged_file_is_told_and_ignored(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The control plane starts all the same."""
    (tmp_path / FILE).write_bytes(content)
    registry, seconds = restarted(tmp_path)
    assert (registry.members, seconds) == ((), 0.0)
    assert FILE in caplog.text


async def test_a_full_disk_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing else is the worse for it."""
    monkeypatch.setattr(members, "PERIOD", 0.01)
    registry = Registry()
    with caplog.at_level(logging.WARNING):
        async with kept(registry, tmp_path / "file" / "below", 60.0):
            (tmp_path / "file").write_text("")
            await asyncio.sleep(0.2)
    assert 1 <= caplog.text.count("a restart would not know") <= 2
