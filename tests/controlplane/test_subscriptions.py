"""The table of one stream, driven by hand: no socket, no clock."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from meshlib_control.model import ObjectKey, Resource
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib_control.xds import subscriptions
from meshlib_control.xds.exchange import SECRET, DeltaRequest, Response, StateRequest, SyncState, TypeStatus, Variant
from meshlib_control.xds.subscriptions import Subscriptions

OBJECT = ObjectKey("networking.istio.io", "VirtualService", "default", "reviews")


class FakeView:
    """A configuration that tests change as they like."""

    def __init__(self) -> None:
        self.revision = 0
        self.resources: dict[tuple[str, str], Resource] = {}

    def set(self, type_url: str, **versions: str | None) -> FakeView:
        for name, version in versions.items():
            self.resources.pop((type_url, name), None)
            if version is not None:
                body = f"{name} {version}".encode()
                self.resources[type_url, name] = Resource(name, type_url, body, version, (OBJECT,))
        self.revision += 1
        return self

    def changed_since(self, revision: int, type_url: str) -> Collection[str] | None:
        return None

    def resource(self, type_url: str, name: str) -> Resource | None:
        return self.resources.get((type_url, name))

    def names(self, type_url: str) -> Collection[str]:
        return [name for kind, name in self.resources if kind == type_url] if type_url in {LISTENER, CLUSTER} else []


class Stream:
    """A client of a table, of either variant."""

    def __init__(self, variant: Variant, view: FakeView) -> None:
        self.table = Subscriptions(variant)
        self.view = view

    def ask(self, type_url: str, *names: str, **fields: Any) -> None:
        self.table.receive(StateRequest(type_url, names, **fields))

    def subscribe(self, type_url: str, *names: str, **fields: Any) -> None:
        self.table.receive(DeltaRequest(type_url, names, **fields))

    def next(self) -> Response | None:
        return self.table.next_response(self.view)

    def all(self) -> list[Response]:
        found = []
        while response := self.next():
            found.append(response)
            assert len(found) < 50, "the table never comes to rest"
        return found

    def only(self) -> Response:
        (response,) = self.all()
        return response

    def status(self, type_url: str) -> TypeStatus:
        return next(row for row in self.table.status() if row.type_url == type_url)


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
def state(view: FakeView) -> Stream:
    return Stream(Variant.STATE_OF_THE_WORLD, view)


@pytest.fixture
def delta(view: FakeView) -> Stream:
    return Stream(Variant.DELTA, view)


def names(response: Response) -> list[str]:
    return [resource.name for resource in response.resources]


# Both variants: wildcards, order, status


def test_no_names_in_the_first_request_mean_everything_for_listeners_and_clusters(state: Stream, delta: Stream) -> None:
    """And nothing for other types."""
    state.view.set(CLUSTER, a="1", b="1").set(ENDPOINT, a="1")
    state.ask(CLUSTER)
    state.ask(ENDPOINT)
    assert [(response.type_url, names(response)) for response in state.all()] == [(CLUSTER, ["a", "b"]), (ENDPOINT, [])]
    delta.subscribe(CLUSTER)
    delta.subscribe(ENDPOINT)
    assert [(response.type_url, names(response)) for response in delta.all()] == [(CLUSTER, ["a", "b"]), (ENDPOINT, [])]


def test_a_star_is_a_wildcard_too(state: Stream, delta: Stream) -> None:
    """Beside explicit names, which may be absent."""
    state.view.set(CLUSTER, a="1")
    state.ask(CLUSTER, "*")
    assert names(state.only()) == ["a"]
    delta.subscribe(CLUSTER, "*", "x")
    response = delta.only()
    assert (names(response), response.removed) == (["a"], ("x",))


def test_pushes_come_in_order_whatever_the_order_of_subscription(state: Stream, delta: Stream) -> None:
    """Clusters, endpoints, listeners, routes, secrets."""
    order = [CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET]
    for type_url in order:
        state.view.set(type_url, a="1")
    for type_url in reversed(order):
        state.ask(type_url, "a")
        delta.subscribe(type_url, "a")
    assert [response.type_url for response in state.all()] == order
    assert [response.type_url for response in delta.all()] == order
    assert [row.type_url for row in delta.table.status()] == order


def test_nothing_new_sends_nothing(state: Stream, delta: Stream) -> None:
    """Also in a new world."""
    state.view.set(CLUSTER, a="1")
    state.ask(CLUSTER)
    delta.subscribe(CLUSTER)
    assert len(state.all()) == len(delta.all()) == 1
    state.view.set(CLUSTER, a="1")
    assert state.all() == delta.all() == []


def test_equal_content_has_equal_versions_on_every_stream(view: FakeView) -> None:
    """Also after a restart."""
    view.set(CLUSTER, a="1", b="2")
    streams = [Stream(variant, view) for variant in (*Variant, *Variant)]
    for stream in streams[::2]:
        stream.ask(CLUSTER)
    for stream in streams[1::2]:
        stream.subscribe(CLUSTER)
    assert len({stream.only().version for stream in streams}) == 1


def test_the_status_follows_a_response(delta: Stream) -> None:
    """Not sent, stale, synced."""
    delta.view.set(ROUTE, a="1")
    delta.subscribe(ROUTE, "a")
    assert delta.status(ROUTE).state is SyncState.NOT_SENT
    response = delta.only()
    assert delta.status(ROUTE).state is SyncState.STALE
    assert (delta.status(ROUTE).sent, delta.status(ROUTE).acked) == (response.version, "")
    delta.subscribe(ROUTE, nonce=response.nonce)
    row = delta.status(ROUTE)
    assert (row.state, row.acked, row.resources) == (SyncState.SYNCED, response.version, 1)


def test_a_clusters_endpoints_go_out_again_with_the_cluster(state: Stream, delta: Stream) -> None:
    """Envoy would keep the cluster warming for 15 seconds otherwise."""
    state.view.set(CLUSTER, a="1", b="1").set(ENDPOINT, a="1", b="1")
    state.ask(CLUSTER)
    state.ask(ENDPOINT, "a", "b")
    delta.subscribe(CLUSTER)
    delta.subscribe(ENDPOINT, "a", "b")
    for stream in (state, delta):
        stream.all()
    state.view.set(CLUSTER, a="2")
    for stream, clusters in ((state, ["a", "b"]), (delta, ["a"])):
        assert [(one.type_url, names(one)) for one in stream.all()] == [(CLUSTER, clusters), (ENDPOINT, ["a"])]


def test_a_client_that_never_answers_does_not_make_the_table_grow(delta: Stream) -> None:
    """And is still told the latest."""
    delta.view.set(ROUTE, a="0")
    delta.subscribe(ROUTE, "a")
    for version in range(100):
        delta.view.set(ROUTE, a=str(version))
        assert delta.only().resources[0].version == str(version)
    assert len(delta.table._types[ROUTE].open) == subscriptions.OPEN_RESPONSES


def test_only_the_latest_state_is_sent_to_a_slow_reader(delta: Stream) -> None:
    """What changed while nobody read is skipped."""
    delta.view.set(ROUTE, a="1")
    delta.subscribe(ROUTE, "a")
    delta.all()
    for version in "23456":
        delta.view.set(ROUTE, a=version)
    assert delta.only().resources[0].version == "6"


# State of the world


def test_clusters_are_repeated_in_full_and_endpoints_as_they_change(state: Stream) -> None:
    """An LDS or CDS response is the whole state; a resource that is not in it is gone."""
    state.view.set(CLUSTER, a="1", b="1").set(ENDPOINT, a="1", b="1")
    state.ask(CLUSTER)
    state.ask(ENDPOINT, "a", "b")
    state.all()
    state.view.set(ENDPOINT, b="2")
    assert names(state.only()) == ["b"]
    state.view.set(CLUSTER, b=None)
    assert [(one.type_url, names(one)) for one in state.all()] == [(CLUSTER, ["a"])]


def test_a_stale_nonce_is_ignored(state: Stream) -> None:
    """The client says it all again with the newest one."""
    state.view.set(ROUTE, a="1", b="1")
    state.ask(ROUTE, "a")
    first = state.only()
    state.view.set(ROUTE, a="2")
    second = state.only()
    state.ask(ROUTE, "a", "b", nonce=first.nonce)
    assert state.all() == []
    assert state.status(ROUTE).state is SyncState.STALE
    state.ask(ROUTE, "a", "b", nonce=second.nonce)
    assert names(state.only()) == ["b"]


def test_an_ack_is_not_answered(state: Stream) -> None:
    """Or client and server would talk for ever."""
    state.view.set(CLUSTER, a="1")
    state.ask(CLUSTER)
    state.ask(CLUSTER, nonce=state.only().nonce)
    assert state.all() == []
    assert (state.status(CLUSTER).state, state.status(CLUSTER).resources) == (SyncState.SYNCED, 1)
    state.view.set(ROUTE, other="1")
    assert state.all() == []


def test_new_names_are_answered_at_once_also_if_they_do_not_exist(state: Stream) -> None:
    """Envoy waits 15 seconds for an answer."""
    state.view.set(ROUTE, a="1")
    state.ask(ROUTE, "a")
    state.ask(ROUTE, "a", "x", nonce=state.only().nonce)
    assert names(state.only()) == []
    state.view.set(ROUTE, x="1")
    assert names(state.only()) == ["x"]


def test_no_names_after_names_mean_none(state: Stream) -> None:
    """Unsubscribed from all, not a wildcard."""
    state.view.set(LISTENER, a="1", b="1")
    state.ask(LISTENER, "a")
    state.ask(LISTENER, nonce=state.only().nonce)
    state.view.set(LISTENER, a="2", b="2")
    assert state.all() == []
    assert state.status(LISTENER).resources == 0


def test_a_name_that_is_asked_for_again_is_sent_again(state: Stream) -> None:
    """The client dropped it meanwhile."""
    state.view.set(ENDPOINT, a="1", b="1")
    state.ask(ENDPOINT, "a", "b")
    nonce = state.only().nonce
    state.ask(ENDPOINT, "a", nonce=nonce)
    assert state.all() == []
    state.ask(ENDPOINT, "a", "b", nonce=nonce)
    assert names(state.only()) == ["b"]


def test_a_reconnecting_client_gets_everything(state: Stream) -> None:
    """Its first request has a version and no nonce; the version is not trusted."""
    state.view.set(CLUSTER, a="1")
    state.ask(CLUSTER, nonce="")
    assert names(state.only()) == ["a"]


def test_what_was_rejected_is_not_sent_again_until_it_changes(state: Stream) -> None:
    """However often the client says no."""
    state.view.set(ROUTE, a="1")
    state.ask(ROUTE, "a")
    response = state.only()
    for _ in range(3):
        state.ask(ROUTE, "a", nonce=response.nonce, error="bad regex")
        assert state.all() == []
    row = state.status(ROUTE)
    assert (row.state, row.error, row.acked, row.objects) == (SyncState.NACK, "bad regex", "", (OBJECT,))
    state.view.set(ROUTE, a="2")
    state.ask(ROUTE, "a", nonce=state.only().nonce)
    assert state.status(ROUTE).state is SyncState.SYNCED
    assert state.status(ROUTE).error == ""


def test_a_rejected_resource_that_is_taken_away_is_not_held_against_the_client(state: Stream) -> None:
    """The operator deleted the bad object."""
    state.view.set(CLUSTER, a="1", bad="1")
    state.ask(CLUSTER)
    state.ask(CLUSTER, nonce=state.only().nonce, error="bad: unsupported")
    assert state.status(CLUSTER).rejected == ("bad",)
    state.view.set(CLUSTER, bad=None)
    state.ask(CLUSTER, nonce=state.only().nonce)
    assert state.status(CLUSTER).state is SyncState.SYNCED


# Delta


def test_changes_and_removals_only(delta: Stream) -> None:
    """Each once."""
    delta.view.set(LISTENER, a="1", b="1", c="1")
    delta.subscribe(LISTENER, "a", "b", "c")
    delta.all()
    delta.view.set(LISTENER, a="2", b=None)
    response = delta.only()
    assert (names(response), response.removed) == (["a"], ("b",))
    delta.view.set(LISTENER)
    assert delta.all() == []


def test_a_name_that_does_not_exist_is_said_to_be_removed_once(delta: Stream) -> None:
    """So that the client need not wait; when it appears, it is sent."""
    delta.subscribe(LISTENER, "x")
    assert delta.only().removed == ("x",)
    delta.view.set(LISTENER, other="1")
    assert delta.all() == []
    delta.view.set(LISTENER, x="1")
    assert names(delta.only()) == ["x"]
    delta.view.set(LISTENER, x=None)
    assert delta.only().removed == ("x",)


def test_wildcard_removals(delta: Stream) -> None:
    """What a wildcard brought is removed when it is gone."""
    delta.view.set(CLUSTER, a="1", b="1")
    delta.subscribe(CLUSTER)
    delta.all()
    delta.view.set(CLUSTER, a=None)
    assert delta.only().removed == ("a",)


def test_unsubscribed_names_are_not_sent(delta: Stream) -> None:
    """Until they are asked for again, then at once."""
    delta.view.set(ROUTE, a="1", b="1")
    delta.subscribe(ROUTE, "a", "b")
    delta.all()
    delta.subscribe(ROUTE, unsubscribe=("a",))
    delta.view.set(ROUTE, a="2", b="2")
    assert names(delta.only()) == ["b"]
    delta.subscribe(ROUTE, "a")
    assert names(delta.only()) == ["a"]


def test_a_star_can_be_unsubscribed(delta: Stream) -> None:
    """Explicit names stay."""
    delta.view.set(CLUSTER, a="1", b="1")
    delta.subscribe(CLUSTER, "*", "a")
    delta.all()
    delta.subscribe(CLUSTER, unsubscribe=("*",))
    delta.view.set(CLUSTER, a="2", b="2")
    assert names(delta.only()) == ["a"]


def test_a_name_under_a_wildcard_stays_when_it_is_unsubscribed(delta: Stream) -> None:
    """The wildcard still means it."""
    delta.view.set(CLUSTER, a="1")
    delta.subscribe(CLUSTER, "*", "a")
    delta.all()
    delta.subscribe(CLUSTER, unsubscribe=("a",))
    delta.view.set(CLUSTER, a="2")
    assert names(delta.only()) == ["a"]


def test_subscribing_again_sends_again(delta: Stream) -> None:
    """Also what is there and what is not: the client lost it."""
    delta.view.set(ROUTE, a="1")
    delta.subscribe(ROUTE, "a", "x")
    delta.all()
    delta.subscribe(ROUTE, "a", "x")
    response = delta.only()
    assert (names(response), response.removed) == (["a"], ("x",))


def test_a_reconnecting_client_gets_what_changed_meanwhile(delta: Stream) -> None:
    """By the versions it says it holds; what it does not want any more is not mentioned."""
    delta.view.set(ROUTE, same="1", changed="2", new="1")
    held = {"same": "1", "changed": "1", "gone": "1", "unwanted": "1"}
    delta.subscribe(ROUTE, "same", "changed", "new", "gone", initial_versions=held)
    response = delta.only()
    assert (names(response), response.removed) == (["changed", "new"], ("gone",))


def test_a_reconnecting_wildcard_learns_what_is_gone(delta: Stream) -> None:
    """From the versions it says it holds."""
    delta.view.set(CLUSTER, a="1")
    delta.subscribe(CLUSTER, initial_versions={"a": "1", "b": "1"})
    response = delta.only()
    assert (names(response), response.removed) == ([], ("b",))


def test_a_reconnecting_client_that_missed_nothing_is_told_so(delta: Stream) -> None:
    """An empty response says: we are connected and you are up to date."""
    delta.view.set(ROUTE, a="1")
    delta.subscribe(ROUTE, "a", initial_versions={"a": "1"})
    response = delta.only()
    assert (response.resources, response.removed) == ((), ())
    delta.subscribe(ROUTE, nonce=response.nonce)
    assert delta.status(ROUTE).state is SyncState.SYNCED


def test_a_subscription_counts_whatever_its_nonce(delta: Stream) -> None:
    """In delta, subscribing is not tied to the answers."""
    delta.view.set(ROUTE, a="1", b="1")
    delta.subscribe(ROUTE, "a")
    delta.all()
    delta.subscribe(ROUTE, "b", nonce="stale")
    assert names(delta.only()) == ["b"]
    assert delta.status(ROUTE).state is SyncState.STALE


def test_accepting_one_resource_does_not_heal_another(delta: Stream) -> None:
    """A rejection stays until that resource is accepted."""
    delta.view.set(ROUTE, bad="1", good="1")
    delta.subscribe(ROUTE, "bad", "good")
    delta.subscribe(ROUTE, nonce=delta.only().nonce, error="bad: unsupported")
    delta.view.set(ROUTE, good="2")
    delta.subscribe(ROUTE, nonce=delta.only().nonce)
    row = delta.status(ROUTE)
    assert (row.state, row.rejected, row.error) == (SyncState.NACK, ("bad",), "bad: unsupported")
    delta.view.set(ROUTE, bad="2")
    delta.subscribe(ROUTE, nonce=delta.only().nonce)
    assert delta.status(ROUTE).state is SyncState.SYNCED


def test_a_late_rejection_is_still_heard(delta: Stream) -> None:
    """Two responses may be under way; both answers count."""
    delta.view.set(ROUTE, a="1")
    delta.subscribe(ROUTE, "a", "b")
    first = delta.only()
    delta.view.set(ROUTE, b="1")
    second = delta.only()
    delta.subscribe(ROUTE, nonce=first.nonce, error="no")
    delta.subscribe(ROUTE, nonce=second.nonce)
    row = delta.status(ROUTE)
    assert (row.state, row.rejected) == (SyncState.NACK, ("a",))


def test_large_changes_are_split(delta: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """grpcio refuses messages over 4 MiB; nothing is lost and each part is sent once."""
    monkeypatch.setattr(subscriptions, "RESPONSE_BYTES", 20)
    found = {f"n{number:02}": "1" for number in range(10)}
    delta.view.set(CLUSTER, **found)
    delta.subscribe(CLUSTER)
    parts = delta.all()
    assert len(parts) == 5
    assert [name for part in parts for name in names(part)] == sorted(found)
