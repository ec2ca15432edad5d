"""The client side of delta xDS: what is asked, what is believed, what readers see."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from meshlib.config.model import (
    Assignment,
    Cluster,
    Endpoint,
    MatchKind,
    OutboundListener,
    PeerMode,
    Route,
    RouteConfiguration,
    RouteMatch,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)
from meshlib.config.policy import InboundListener
from meshlib.config.snapshot import ABSENT, Destination
from meshlib.config.subscription import Ask, Item, Kind, Subscription, Update, Value

LDS, RDS, CDS, EDS = Kind


def routes(name: str, *clusters: str) -> RouteConfiguration:
    everything = RouteMatch(StringMatch(MatchKind.PREFIX, "/"))
    shares = tuple(WeightedCluster(cluster, 1) for cluster in clusters)
    return RouteConfiguration(name, (VirtualHost("v", ("*",), (Route("r", everything, shares),)),))


def cluster(name: str) -> Cluster:
    return Cluster(name, assignment=name)


def assignment(name: str, *ports: int) -> Assignment:
    return Assignment(name, tuple(Endpoint("10.0.0.1", port) for port in ports))


class Conversation:
    """A subscription and the other end of its stream."""

    def __init__(self) -> None:
        self.table = Subscription()
        self.asked: list[Ask] = []
        self.subscribed: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        self._nonce = 0

    def note(self, asks: Iterable[Ask]) -> None:
        for ask in asks:
            self.asked.append(ask)
            assert not self.subscribed[ask.kind] & set(ask.subscribe), "subscribed twice"
            assert set(ask.unsubscribe) <= self.subscribed[ask.kind], "unsubscribed what was not subscribed"
            self.subscribed[ask.kind].update(ask.subscribe)
            self.subscribed[ask.kind].difference_update(ask.unsubscribe)

    def connect(self, *, grace: bool = False) -> list[Ask]:
        for names in self.subscribed.values():
            names.clear()
        before = len(self.asked)
        self.note(self.table.on_connect(grace=grace))
        return self.asked[before:]

    def want(self, *names: str) -> None:
        self.note(self.table.want(names))

    def tell(self, kind: Kind, *values: Value, removed: tuple[str, ...] = (), problem: str = "", version: str = "1") -> bool:
        self._nonce += 1
        items = tuple(Item(value.name, version, value, b"raw") for value in values)
        asks, changed = self.table.on_response(Update(kind, str(self._nonce), items, removed, problem))
        assert asks[0].nonce == str(self._nonce)
        assert asks[0].problem == problem
        self.note(asks)
        return changed

    def tell_reviews(self, *versions: str, port: int = 1) -> None:
        self.tell(LDS, OutboundListener("reviews:9080", "r"))
        self.tell(RDS, routes("r", *versions))
        self.tell(CDS, *(cluster(name) for name in versions))
        self.tell(EDS, *(assignment(name, port) for name in versions))

    @property
    def reviews(self) -> Destination:
        found = self.table.snapshot.destination("reviews:9080")
        assert isinstance(found, Destination)
        return found

    def ports(self) -> list[int]:
        return [endpoint.port for one in self.reviews.assignments.values() for endpoint in one.endpoints]


def joined() -> Conversation:
    conversation = Conversation()
    conversation.connect()
    conversation.want("reviews:9080")
    return conversation


def test_each_kind_names_the_next() -> None:
    """LDS leads to RDS, RDS to CDS, CDS to EDS."""
    talk = joined()
    talk.tell_reviews("v1", "v2")
    assert talk.subscribed == {LDS: {"reviews:9080"}, RDS: {"r"}, CDS: {"v1", "v2"}, EDS: {"v1", "v2"}}


def test_a_destination_is_visible_only_when_complete() -> None:
    """Nobody sees routes whose clusters or endpoints are still on their way."""
    talk = joined()
    assert not talk.tell(LDS, OutboundListener("reviews:9080", "r"))
    assert not talk.tell(RDS, routes("r", "v1"))
    assert not talk.tell(CDS, cluster("v1"))
    assert talk.table.snapshot.destination("reviews:9080") is None
    assert talk.tell(EDS, assignment("v1", 1))
    assert talk.ports() == [1]


def test_a_cluster_that_does_not_exist_completes_too() -> None:
    """The other shares go on; the missing one is NC."""
    talk = joined()
    talk.tell(LDS, OutboundListener("reviews:9080", "r"))
    talk.tell(RDS, routes("r", "v1", "v9"))
    talk.tell(CDS, cluster("v1"), removed=("v9",))
    talk.tell(EDS, assignment("v1", 1))
    assert set(talk.reviews.clusters) == {"v1"}


def test_an_unknown_listener_is_absent() -> None:
    """The control plane says "removed" of what it does not know."""
    talk = joined()
    assert talk.tell(LDS, removed=("reviews:9080",))
    assert talk.table.snapshot.destination("reviews:9080") is ABSENT
    talk.tell_reviews("v1")
    assert talk.ports() == [1]


def test_make_before_break() -> None:
    """Old routes serve until the new ones' endpoints are there; then the old cluster is given up."""
    talk = joined()
    talk.tell_reviews("v1")
    talk.tell(RDS, routes("r", "v2"))
    assert set(talk.reviews.clusters) == {"v1"}
    assert talk.subscribed[CDS] == {"v1", "v2"}
    talk.tell(CDS, cluster("v2"))
    assert set(talk.reviews.clusters) == {"v1"}
    talk.tell(EDS, assignment("v1", 7))
    assert talk.ports() == [7], "endpoints of what still serves stay current"
    talk.tell(EDS, assignment("v2", 2))
    assert set(talk.reviews.clusters) == {"v2"}
    assert talk.subscribed[CDS] == talk.subscribed[EDS] == {"v2"}


def test_a_cluster_moving_to_another_assignment_waits_for_it() -> None:
    """A changed cluster is visible with its endpoints or not at all."""
    talk = joined()
    talk.tell_reviews("v1")
    talk.tell(CDS, Cluster("v1", assignment="elsewhere"))
    assert talk.ports() == [1]
    talk.tell(EDS, assignment("elsewhere", 5))
    assert talk.ports() == [5]
    assert talk.subscribed[EDS] == {"elsewhere"}


def test_one_invalid_resource_refuses_all() -> None:
    """Whole or nothing: NACK with the reason, nothing changes, the nonce is answered."""
    talk = joined()
    talk.tell_reviews("v1")
    before = talk.table.snapshot
    assert not talk.tell(EDS, assignment("v1", 9), problem="v1: endpoints[0]: no address")
    assert talk.table.snapshot is before
    assert talk.asked[-1] == Ask(EDS, nonce="5", problem="v1: endpoints[0]: no address")


def test_unchanged_destinations_stay_the_same_object() -> None:
    """Readers keep what they derive from a destination by identity."""
    talk = joined()
    talk.tell_reviews("v1")
    before = talk.reviews
    talk.want("ratings:9080")
    talk.tell(LDS, removed=("ratings:9080",))
    assert talk.reviews is before


def test_losing_the_stream_changes_nothing() -> None:
    """What is known is used on."""
    talk = joined()
    talk.tell_reviews("v1")
    before = talk.table.snapshot
    talk.table.on_disconnect()
    assert talk.table.snapshot is before
    assert talk.table.want(["ratings:9080"]) == ()


def test_a_new_stream_is_told_what_is_held() -> None:
    """Every kind once, all names, the versions held; listeners without, so that there is an answer in any case."""
    talk = joined()
    talk.tell_reviews("v1")
    talk.table.on_disconnect()
    assert talk.connect() == [
        Ask(LDS, ("reviews:9080",)),
        Ask(RDS, ("r",), (), {"r": "1"}),
        Ask(CDS, ("v1",), (), {"v1": "1"}),
        Ask(EDS, ("v1",), (), {"v1": "1"}),
    ]


def test_versions_go_with_the_first_request_of_a_kind_only() -> None:
    """The protocol allows initial_resource_versions in no later request."""
    talk = joined()
    talk.tell_reviews("v1")
    talk.table.on_disconnect()
    talk.connect()
    talk.tell(RDS, routes("r", "v1", "v2"))
    assert talk.asked[-1] == Ask(CDS, ("v2",))


def test_forgetting_gives_up_everything_behind() -> None:
    """No subscription outlives its need, no resource its subscription."""
    talk = joined()
    talk.tell_reviews("v1")
    talk.note(talk.table.forget(["reviews:9080"]))
    assert talk.subscribed == {kind: set() for kind in Kind}
    assert talk.table.snapshot.destination("reviews:9080") is None
    assert not talk.table.snapshot.clusters


def test_an_answer_that_crosses_our_unsubscribing_is_acknowledged_and_dropped() -> None:
    """Late news of what nobody needs is no news."""
    talk = joined()
    talk.tell_reviews("v1")
    talk.note(talk.table.forget(["reviews:9080"]))
    assert not talk.tell(EDS, assignment("v1", 3))
    assert not talk.table.snapshot.assignments


def test_a_removed_route_configuration_is_kept_while_named() -> None:
    """As Envoy does: only the listener ends it."""
    talk = joined()
    talk.tell_reviews("v1")
    before = talk.reviews
    assert not talk.tell(RDS, removed=("r",))
    assert talk.reviews is before


def test_routes_that_never_existed_answer_nothing_matches() -> None:
    """The destination is known and has no rules: 404, not a wait without end."""
    talk = joined()
    talk.tell(LDS, OutboundListener("reviews:9080", "r"))
    assert talk.tell(RDS, removed=("r",))
    assert talk.reviews.routes == RouteConfiguration("r", ())
    assert not talk.tell(CDS)


def test_inbound_listeners_need_nothing_else() -> None:
    """Our own port's policy is one resource."""
    talk = Conversation()
    talk.connect()
    talk.want("inbound")
    assert talk.tell(LDS, InboundListener("inbound", PeerMode.STRICT))
    assert talk.table.snapshot.inbound["inbound"].mode is PeerMode.STRICT


def test_after_a_reconnect_losses_wait() -> None:
    """A restarted control plane does not know everybody yet: removals and empty assignments are held back."""
    talk = joined()
    talk.tell_reviews("v1")
    talk.table.on_disconnect()
    talk.connect(grace=True)
    assert not talk.tell(LDS, removed=("reviews:9080",))
    assert not talk.tell(EDS, assignment("v1"))
    assert talk.ports() == [1]
    asks, changed = talk.table.on_grace_over()
    talk.note(asks)
    assert changed
    assert talk.table.snapshot.destination("reviews:9080") is ABSENT


def test_good_news_within_the_grace_cancels_the_loss() -> None:
    """The others announced themselves meanwhile."""
    talk = joined()
    talk.tell_reviews("v1")
    talk.table.on_disconnect()
    talk.connect(grace=True)
    talk.tell(EDS, assignment("v1"), version="2")
    assert talk.tell(EDS, assignment("v1", 4), version="3")
    talk.note(talk.table.on_grace_over()[0])
    assert talk.ports() == [4]


def test_what_an_earlier_process_held_serves_until_news_come() -> None:
    """Restored resources are visible when wanted, and asked for anew without versions."""
    first = joined()
    first.tell_reviews("v1")
    kept = first.table.complete("reviews:9080")
    assert kept is not None
    talk = Conversation()
    talk.want("reviews:9080")
    talk.table.restore(kept)
    assert talk.ports() == [1]
    assert all(ask.versions == {} for ask in talk.connect())
    talk.tell(EDS, assignment("v1", 2))
    assert talk.ports() == [2]


def test_restored_but_unwanted_is_not_asked_for() -> None:
    """Only what this process uses is subscribed."""
    first = joined()
    first.tell_reviews("v1")
    talk = Conversation()
    talk.table.restore(first.table.complete("reviews:9080") or {})
    talk.want("ratings:9080")
    talk.connect()
    assert talk.subscribed == {LDS: {"ratings:9080"}, RDS: set(), CDS: set(), EDS: set()}


def test_what_is_restored_outlives_a_stream_that_never_answers() -> None:
    """Trying to connect proves nothing: a destination first used later is still there."""
    first = joined()
    first.tell_reviews("v1")
    talk = Conversation()
    talk.table.restore(first.table.complete("reviews:9080") or {})
    talk.want("ratings:9080")
    talk.connect()
    talk.table.on_disconnect()
    talk.want("reviews:9080")
    assert talk.ports() == [1]


def test_incomplete_destinations_are_not_kept() -> None:
    """A bundle for the disk is a whole."""
    talk = joined()
    talk.tell(LDS, OutboundListener("reviews:9080", "r"))
    talk.tell(RDS, routes("r", "v1"))
    assert talk.table.complete("reviews:9080") is None
    assert talk.table.complete("nobody:80") is None


# Whatever the order of news, loss and reconnects, the table converges on what the control plane holds.

NAMES = ("a:80", "b:80")
CLUSTERS = ("c1", "c2", "c3")


class World:
    """A control plane that answers for what is subscribed; its resources have versions."""

    def __init__(self) -> None:
        self.revision = 0
        self.resources: dict[Kind, dict[str, tuple[str, Value]]] = {kind: {} for kind in Kind}
        self.sent: dict[Kind, dict[str, str]] = {kind: {} for kind in Kind}

    def put(self, kind: Kind, value: Value) -> None:
        self.revision += 1
        self.resources[kind][value.name] = (str(self.revision), value)

    def drop(self, kind: Kind, name: str) -> None:
        self.resources[kind].pop(name, None)

    def hear(self, asks: Iterable[Ask]) -> None:
        for ask in asks:
            for name in ask.unsubscribe:
                self.sent[ask.kind].pop(name, None)
            for name in ask.subscribe:
                self.sent[ask.kind][name] = ask.versions.get(name, "?")

    def news(self, kind: Kind) -> Update | None:
        known = self.resources[kind]
        sent = self.sent[kind]
        items = [Item(name, *known[name]) for name, version in sent.items() if name in known and known[name][0] != version]
        removed = [name for name, version in sent.items() if name not in known and version != "gone"]
        if not items and not removed:
            return None
        for item in items:
            sent[item.name] = item.version
        for name in removed:
            sent[name] = "gone"
        return Update(kind, "n", tuple(items), tuple(removed))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("listener"), st.sampled_from(NAMES), st.sampled_from(("r1", "r2", ""))),
        st.tuples(
            st.just("routes"), st.sampled_from(("r1", "r2")), st.lists(st.sampled_from(CLUSTERS), min_size=1, max_size=2)
        ),
        st.tuples(st.just("cluster"), st.sampled_from(CLUSTERS), st.sampled_from(("e1", "e2", ""))),
        st.tuples(st.just("assignment"), st.sampled_from(("e1", "e2")), st.integers(1, 9)),
        st.tuples(st.just("want"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("forget"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("tell"), st.sampled_from(list(Kind)), st.none()),
        st.tuples(st.just("reconnect"), st.booleans(), st.none()),
    ),
    max_size=40,
)


class Drill:
    """A table and a world, and what may happen to both; each method is a step of the script."""

    def __init__(self) -> None:
        self.world, self.table = World(), Subscription()
        self.world.hear(self.table.on_connect(grace=False))

    def listener(self, name: str, routes_name: str) -> None:
        if routes_name:
            self.world.put(LDS, OutboundListener(name, routes_name))
        else:
            self.world.drop(LDS, name)

    def routes(self, name: str, clusters: list[str]) -> None:
        self.world.put(RDS, routes(name, *clusters))

    def cluster(self, name: str, assignment_name: str) -> None:
        if assignment_name:
            self.world.put(CDS, Cluster(name, assignment=assignment_name))
        else:
            self.world.drop(CDS, name)

    def assignment(self, name: str, port: int) -> None:
        self.world.put(EDS, assignment(name, port))

    def want(self, name: str, _: None) -> None:
        self.world.hear(self.table.want([name]))

    def forget(self, name: str, _: None) -> None:
        self.world.hear(self.table.forget([name]))

    def tell(self, kind: Kind, _: None) -> bool:
        update = self.world.news(kind)
        if update is not None:
            self.world.hear(self.table.on_response(update)[0])
            self.check_nothing_dangles()
        return update is not None

    def reconnect(self, grace: bool, _: None) -> None:
        self.table.on_disconnect()
        self.world.sent = {kind: {} for kind in Kind}
        self.world.hear(self.table.on_connect(grace=grace))

    def come_to_rest(self) -> None:
        self.world.hear(self.table.on_grace_over()[0])
        while True:
            told = [self.tell(kind, None) for kind in Kind]
            if not any(told):
                return

    def check_nothing_dangles(self) -> None:
        for found in self.table.snapshot.destinations.values():
            for one in found.clusters.values():
                assert not one.assignment or one.assignment in found.assignments or one.assignment not in self.known(EDS)

    def known(self, kind: Kind) -> dict[str, Value]:
        return {name: value for name, (_, value) in self.world.resources[kind].items()}

    def check_destination(self, name: str) -> None:
        found = self.table.snapshot.destination(name)
        listener = self.known(LDS).get(name)
        if listener is None:
            assert found is ABSENT
            return
        assert isinstance(listener, OutboundListener)
        assert isinstance(found, Destination)
        assert found.routes == self.known(RDS).get(listener.route_configuration, found.routes)
        assert all(self.known(CDS)[one.name] == one for one in found.clusters.values())
        assert all(self.known(EDS)[one.name] == one for one in found.assignments.values())


@settings(max_examples=150, deadline=None)
@given(steps)
def test_every_order_converges(script: list[tuple[str, object, object]]) -> None:
    """At rest the snapshot is exactly what the control plane holds for what is wanted; on the way nothing visible dangles."""
    drill = Drill()
    for step, what, how in script:
        getattr(drill, step)(what, how)
    drill.come_to_rest()
    for name in drill.table.wanted_names:
        drill.check_destination(name)
    assert set(drill.world.sent[LDS]) == set(drill.table.wanted_names)
    assert set(drill.world.sent[EDS]) == {one.assignment for one in drill.table.snapshot.clusters.values()}
