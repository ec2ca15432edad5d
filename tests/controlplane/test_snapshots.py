from __future__ import annotations

from typing import Any

import pytest

from meshlib_control import snapshots
from meshlib_control.model import World
from meshlib_control.snapshots import Snapshots, view_key
from meshlib_control.translate.resources import CLUSTER, LISTENER, ROUTE
from tests.support.worlds import client, outbound, server, world

NAME = outbound("reviews")


@pytest.fixture
def translations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were translated, in order."""
    seen: list[str] = []
    real = snapshots.translate

    def counted(world: World, node: Any, type_url: str, name: str) -> Any:
        seen.append(name)
        return real(world, node, type_url, name)

    monkeypatch.setattr(snapshots, "translate", counted)
    return seen


def test_a_resource_is_translated_once_for_nodes_that_look_alike(translations: list[str]) -> None:
    """A thousand workers of one service cost one translation."""
    published = Snapshots(world())
    views = [published.current.view(client(app="web")) for _ in range(3)]
    found = {id(view.resource(CLUSTER, NAME)) for view in views}
    assert len(found) == 1
    assert translations == [NAME]


def test_nodes_that_differ_in_what_translation_looks_at_do_not_share() -> None:
    """Kind, namespace, labels; not the instance."""
    assert view_key(client(app="a")) != view_key(client(app="b"))
    assert view_key(client()) != view_key(client("bank"))
    assert view_key(client()) != view_key(client(kind="grpc"))
    assert view_key(server(port=1)) == view_key(server(port=2))


def test_names_that_do_not_exist_are_not_kept(translations: list[str]) -> None:
    """There is no end to them."""
    published = Snapshots(world())
    view = published.current.view(client())
    assert view.resource(LISTENER, "nowhere:80") is None
    assert view.resource(LISTENER, "nowhere:80") is None
    assert published.current.made == {}
    assert translations == ["nowhere:80", "nowhere:80"]


def test_a_view_never_mixes_worlds() -> None:
    """It keeps answering from its own."""
    published = Snapshots(world())
    before = published.current.view(client())
    published.publish(world(nodes=()))
    assert before.resource(CLUSTER, NAME) is not None
    assert published.current.view(client()).resource(CLUSTER, NAME) is None


def test_an_older_world_does_not_replace_a_newer_one() -> None:
    """Two changes may be published by two threads."""
    old, new = World(revision=1), World(revision=2)
    published = Snapshots()
    assert published.publish(new)
    assert not published.publish(old)
    assert published.current.world is new


def test_a_fault_in_translating_keeps_what_the_previous_world_gave(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And is logged; other resources are not touched."""
    published = Snapshots(world())
    good = published.current.view(client()).resource(ROUTE, NAME)
    assert good is not None
    published.publish(world(nodes=()))
    monkeypatch.setattr(snapshots, "translate", lambda *_: 1 // 0)
    view = published.current.view(client())
    assert view.resource(ROUTE, NAME) == good
    assert view.resource(ROUTE, "never made") is None
    assert f"translating {ROUTE} {NAME} failed" in caplog.text
