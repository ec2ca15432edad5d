from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshlib_control import snapshots
from meshlib_control.model import World
from meshlib_control.snapshots import Snapshots
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from tests.support.worlds import REVIEWS, client, outbound, server, world

NAME = outbound("reviews")

SELECTIVE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, workloadSelector: {matchLabels: SELECTOR}, subsets: [{name: v1, labels: {version: v1}}]}
"""


def grown(published: Snapshots, *nodes: Any) -> World:
    """The published world with more instances, one revision newer."""
    before = published.current.world
    more = world(nodes=nodes)
    services = dict(before.services)
    for host, service in more.services.items():
        known = services.get(host)
        instances = {9080: (*(known.instances[9080] if known else ()), *service.instances[9080])}
        services[host] = replace(service, instances=instances)
    return replace(before, services=services, revision=before.revision + 1)


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


def test_nodes_share_what_does_not_depend_on_what_they_differ_in(translations: list[str]) -> None:
    """Labels, addresses and ports count only where a translation reads them."""
    current = Snapshots(world()).current
    for node in (client(app="a"), client(app="b"), server(port=1), server(port=2)):
        assert current.view(node).resource(ROUTE, NAME) is not None
    assert translations == [NAME]
    for node in (client("bank"), client(kind="grpc")):
        assert current.view(node).resource(CLUSTER, NAME) is not None
    assert translations == [NAME] * 3


def test_labels_count_where_a_selector_names_them(translations: list[str]) -> None:
    """Only those labels: the version does not matter to a rule for an app."""
    rule = SELECTIVE.replace("SELECTOR", "{app: a}")
    current = Snapshots(world(rule)).current
    for labels in ({"app": "a"}, {"app": "b"}, {"app": "a", "version": "v1"}, {"app": "b", "version": "v1"}):
        assert current.view(client(**labels)).resource(CLUSTER, outbound("reviews", subset="v1")) is not None or (
            labels["app"] == "b"
        )
    assert len(translations) == 2


def test_names_that_do_not_exist_are_known_not_to(translations: list[str]) -> None:
    """Until they do; what nobody follows is forgotten, as there is no end to such names."""
    published = Snapshots(world())
    for _ in range(2):
        assert published.current.view(client()).resource(LISTENER, "nowhere:9080") is None
    assert translations == ["nowhere:9080"]
    published.forget_all_but({(LISTENER, "elsewhere:9080")})
    assert published.size == 0
    published.publish(grown(published, server("nowhere")))
    assert published.current.view(client()).resource(LISTENER, "nowhere:9080") is not None


def test_what_did_not_change_is_not_made_again(translations: list[str]) -> None:
    """Endpoints of one service matter to its own clusters and endpoints only, not to routes, not to other services."""
    both = (*REVIEWS, server("ratings", port=7100))
    published = Snapshots(world(nodes=both))
    places = [(kind, outbound(name)) for kind in (CLUSTER, ENDPOINT, ROUTE) for name in ("reviews", "ratings")]
    for kind, name in places:
        published.current.view(client()).resource(kind, name)
    before = published.current.world.revision
    published.publish(grown(published, server("ratings", port=7101)))
    view = published.current.view(client())
    assert view.changed_since(before, ENDPOINT) == {outbound("ratings")}
    assert view.changed_since(before, ROUTE) == frozenset()
    translations.clear()
    for kind, name in places:
        view.resource(kind, name)
    assert set(translations) == {outbound("ratings")}


def test_what_changed_two_worlds_ago_is_not_known() -> None:
    """Who is further behind looks at everything."""
    published = Snapshots(world())
    oldest = published.current.world.revision
    for port in (7100, 7101):
        published.publish(grown(published, server("ratings", port=port)))
    assert published.current.changed_since(oldest, ROUTE) is None
    assert published.current.changed_since(published.current.world.revision, ROUTE) == frozenset()


def test_a_new_service_changes_what_a_wildcard_means() -> None:
    """And endpoints alone do not."""
    published = Snapshots(world())
    published.current.view(client()).names(CLUSTER)
    before = published.current.world.revision
    published.publish(grown(published, server(port=7009)))
    assert "*" not in (published.current.changed_since(before, CLUSTER) or ())
    assert published.current.view(client()).names(CLUSTER) == {NAME}
    before = published.current.world.revision
    published.publish(grown(published, server("ratings")))
    assert "*" in (published.current.changed_since(before, CLUSTER) or ())
    assert set(published.current.view(client()).names(CLUSTER)) == {NAME, outbound("ratings")}


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
