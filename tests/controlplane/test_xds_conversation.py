"""The table of the server and the table of the library, talking to each other without a socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from meshlib.config.decode import TYPE_URLS, decode
from meshlib.config.snapshot import Snapshot as Visible
from meshlib.config.subscription import Ask, Item, Subscription, Update
from meshlib.errors import ConfigurationError
from meshlib_control.model import World
from meshlib_control.names import inbound_name
from meshlib_control.snapshots import Snapshot
from meshlib_control.xds.exchange import DeltaRequest, Response, SyncState, Variant
from meshlib_control.xds.subscriptions import Subscriptions
from tests.support.worlds import REVIEWS, read, server, world

KINDS = {url: kind for kind, url in TYPE_URLS.items()}

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
"""
TO = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{route: [{destination: {host: HOST, subset: SUBSET}}]}]}
---
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mesh, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
RATINGS = server("ratings", port=7100)


def to(subset: str, host: str = "reviews") -> str:
    return TO.replace("HOST", host).replace("SUBSET", subset)


_WORLDS = (
    world(nodes=()),
    world(),
    world(RULE, nodes=(*REVIEWS, RATINGS)),
    world(RULE, to("v1"), nodes=(*REVIEWS, RATINGS)),
    world(RULE, to("v2"), nodes=REVIEWS[:1]),
    world(to("v1"), nodes=REVIEWS),
    world(RULE, to("v9"), STRICT),
    world(RULE, to('""', "ratings"), nodes=(*REVIEWS, RATINGS)),
    world(items=read(STRICT), nodes=(RATINGS,)),
)
WORLDS = tuple(replace(found, revision=number) for number, found in enumerate(_WORLDS, 1))
NAMES = ("reviews:9080", "ratings:9080", "nowhere:80", inbound_name("127.0.0.1", 7001))


class Conversation:
    """Both tables, and the messages under way; nothing arrives until it is delivered."""

    def __init__(self, found: World) -> None:
        self.client = Subscription()
        self.world = found
        self.connect()

    def connect(self) -> None:
        """A new stream; what was under way is lost."""
        self.client.on_disconnect()
        self.server = Subscriptions(Variant.DELTA)
        self.upward: deque[Ask] = deque()
        self.downward: deque[Response] = deque()
        self.upward.extend(self.client.on_connect(grace=False))

    def want(self, name: str) -> None:
        self.upward.extend(self.client.want([name]))

    def forget(self, name: str) -> None:
        self.upward.extend(self.client.forget([name]))

    def deliver_up(self) -> None:
        if self.upward:
            self.server.receive(request(self.upward.popleft()))

    def push(self) -> None:
        response = self.server.next_response(Snapshot(self.world).view(server("productpage")))
        if response is not None:
            self.downward.append(response)

    def deliver_down(self) -> None:
        if self.downward:
            asks, _ = self.client.on_response(update(self.downward.popleft()))
            self.upward.extend(asks)

    def finish(self) -> None:
        """Deliver until nobody has anything to say."""
        for _ in range(200):
            before = len(self.downward)
            self.deliver_up()
            self.push()
            self.deliver_down()
            if not (before or self.upward or self.downward) and not self._more():
                return
        raise AssertionError("the two never come to rest")

    def _more(self) -> bool:
        self.push()
        return bool(self.downward)


def request(ask: Ask) -> DeltaRequest:
    error = ask.problem or None
    return DeltaRequest(TYPE_URLS[ask.kind], ask.subscribe, ask.unsubscribe, ask.versions, ask.nonce, error)


def update(response: Response) -> Update:
    kind, items, problem = KINDS[response.type_url], [], ""
    for resource in response.resources:
        try:
            items.append(Item(resource.name, resource.version, decode(kind, resource.body)))
        except ConfigurationError as error:
            problem = f"{resource.name}: {error}"
    return Update(kind, response.nonce, tuple(items), response.removed, problem)


def known(client: Subscription) -> tuple[object, ...]:
    visible: Visible = client.snapshot
    return (dict(visible.destinations), dict(visible.inbound), visible.absent)


def fresh(found: World, names: Iterable[str]) -> tuple[object, ...]:
    conversation = Conversation(found)
    for name in names:
        conversation.want(name)
    conversation.finish()
    return known(conversation.client)


STEPS = st.one_of(
    st.tuples(st.just("world"), st.sampled_from(WORLDS)),
    st.tuples(st.just("want"), st.sampled_from(NAMES)),
    st.tuples(st.just("forget"), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(["deliver_up", "push", "deliver_down", "connect", "finish"]), st.none()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_after_any_history_a_client_knows_what_a_new_one_would_learn(steps: list[tuple[str, object]]) -> None:
    """Lost streams, crossing messages, half delivered changes: all ends in the same place, acknowledged."""
    conversation = Conversation(WORLDS[0])
    for step, argument in steps:
        if step == "world":
            assert isinstance(argument, World)
            conversation.world = argument
        elif step in {"want", "forget"}:
            getattr(conversation, step)(argument)
        else:
            getattr(conversation, step)()
    conversation.finish()
    assert known(conversation.client) == fresh(conversation.world, conversation.client.wanted_names)
    assert {row.state for row in conversation.server.status()} <= {SyncState.SYNCED}


def test_a_change_is_made_before_the_old_is_broken() -> None:
    """Between two worlds a reader always sees a destination with endpoints."""
    conversation = Conversation(WORLDS[3])
    conversation.want("reviews:9080")
    conversation.finish()
    seen = []
    conversation.world = WORLDS[7]
    for _ in range(30):
        conversation.deliver_up()
        conversation.push()
        conversation.deliver_down()
        destination = conversation.client.snapshot.destinations["reviews:9080"]
        (route,) = destination.routes.virtual_hosts[0].routes
        name = route.clusters[0].name
        assert destination.assignments[name].endpoints
        seen.append(name)
    assert len(set(seen)) == 2
