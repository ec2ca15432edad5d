"""Who was sent what: the table of one ADS stream, for both variants, without a socket.

Rule 1: a state-of-the-world request with another nonce than the last one sent is stale and ignored: the client repeats its
        names with the next answer (xDS: "ACK/NACK and resource type instance version").
Rule 2: a delta request changes subscriptions whatever its nonce says ("subscribing is independent of ACK").
Rule 3: no names in the first request of LDS or CDS means all of them; of other types, none. After names were given once, no
        names means none (xDS: "how the client specifies what resources to return").
Rule 4: what was rejected is not sent again until it changes.
Rule 5: a cluster that was sent makes its endpoints go out again, or Envoy keeps the cluster warming for 15 s.
Rule 6: always the latest state is sent, never a queue of states: a slow reader skips what it missed.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from meshlib_control.model import ObjectKey, Resource
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER

from .exchange import (
    PUSH_ORDER,
    DeltaRequest,
    Entry,
    Response,
    StateRequest,
    SyncState,
    TypeStatus,
    Variant,
    View,
)

# grpcio closes a stream that brings more than 4 MiB in one message, again after every reconnect.
RESPONSE_BYTES = 3_500_000
# Answers still expected; a client that never answers must not make the table grow.
OPEN_RESPONSES = 32

_WILDCARD = "*"
_FULL_STATE = frozenset({LISTENER, CLUSTER})

Touched = Mapping[str, Resource | None]
"""What a response was about: the resources by name; None: it told that there is none."""


@dataclass(slots=True)
class _Subscription:
    """One type of a stream.

    Args:
        names, wildcard: what the client wants; `named`: it gave names at least once (rule 3).
        sent: name -> version of what it was sent and, as far as we know, holds.
        told_absent: names it was told do not exist (delta).
        repeat: names to send even if the version is the same.
        answer: the client waits for a response, even an empty one.
        open: nonce -> (response version, resources) of responses not answered yet.
        accepted: what the client acknowledged last, by name; it may hold more since before a reconnect (delta).
    """

    type_url: str
    names: set[str] = field(default_factory=set)
    named: bool = False
    wildcard: bool = False
    sent: dict[str, str] = field(default_factory=dict)
    told_absent: set[str] = field(default_factory=set)
    repeat: set[str] = field(default_factory=set)
    answer: bool = False
    revision: int = -1
    nonce: str = ""
    version: str = ""
    acked: str = ""
    error: str = ""
    rejected: dict[str, tuple[ObjectKey, ...]] = field(default_factory=dict)
    open: OrderedDict[str, tuple[str, Touched]] = field(default_factory=OrderedDict)
    accepted: dict[str, Resource] = field(default_factory=dict)

    def wanted(self, view: View) -> set[str]:
        return {*self.names, *view.names(self.type_url)} if self.wildcard else self.names

    def due(self, view: View) -> bool:
        """Whether there may be something to send; if not, the subscription is at the view's revision."""
        if self.answer or self.repeat:
            return True
        if self.revision == view.revision:
            return False
        suspects = self.suspects(view)
        if suspects is not None and not suspects:
            self.revision = view.revision
            return False
        return True

    def suspects(self, view: View) -> set[str] | None:
        """Wanted or held names whose resources may differ from what was sent; None: any may."""
        if self.answer:
            return None
        changed = view.changed_since(self.revision, self.type_url)
        if changed is None or (self.wildcard and _WILDCARD in changed):
            return None
        mine = self.wanted(view) | self.sent.keys() if changed and self.wildcard else self.names
        return mine.intersection(changed) | self.repeat

    def subscribe(self, names: Iterable[str]) -> None:
        wanted = set(names)
        self.named = self.named or bool(wanted)
        self.wildcard = self.wildcard or _WILDCARD in wanted
        self.names |= wanted - {_WILDCARD}

    def unsubscribe(self, names: Iterable[str]) -> None:
        dropped = set(names)
        self.wildcard = self.wildcard and _WILDCARD not in dropped
        self.names -= dropped
        if not self.wildcard:
            self.drop(set(self.sent) - self.names)
        self.told_absent -= dropped
        self.repeat -= dropped

    def drop(self, names: Iterable[str]) -> None:
        """Note that the client does not hold these any more."""
        for name in list(names):
            self.sent.pop(name, None)
            self.accepted.pop(name, None)
            self.forget_rejected([name])

    def hold(self, response: Response) -> None:
        """Note what went out."""
        touched: dict[str, Resource | None] = {resource.name: resource for resource in response.resources}
        touched.update(dict.fromkeys(response.removed))
        self.nonce, self.version, self.answer = response.nonce, response.version, False
        self.open[response.nonce] = (response.version, touched)
        while len(self.open) > OPEN_RESPONSES or (len(self.open) > 1 and _weight(self.open) > RESPONSE_BYTES):
            self.open.popitem(last=False)

    def settle(self, nonce: str, error: str | None) -> None:
        """Note an ACK or a NACK. Answers come in order, so what was sent before is settled too."""
        while self.open and nonce in self.open:
            opened, (version, touched) = self.open.popitem(last=False)
            if opened == nonce:
                self._judge(version, touched, error)

    def _judge(self, version: str, touched: Touched, error: str | None) -> None:
        if error is not None:
            self.error, self.rejected = error, _blamed(touched, error)
            return
        self.acked = version
        self.accepted.update((name, resource) for name, resource in touched.items() if resource and name in self.sent)
        # Accepting one resource does not heal another.
        self.forget_rejected(touched)

    def forget_rejected(self, names: Iterable[str]) -> None:
        for name in names:
            self.rejected.pop(name, None)
        if not self.rejected:
            self.error = ""

    def status(self) -> TypeStatus:
        return TypeStatus(
            type_url=self.type_url,
            state=self._state(),
            resources=len(self.sent),
            sent=self.version,
            acked=self.acked,
            error=self.error,
            rejected=tuple(sorted(self.rejected)),
            objects=tuple(sorted({key for keys in self.rejected.values() for key in keys})),
        )

    def entries(self, view: View) -> Iterator[Entry]:
        """Every name that the client wants or holds, with what it acknowledged and what the view holds for it."""
        unanswered = {name for _, touched in self.open.values() for name in touched}
        for name in sorted({*self.wanted(view), *self.sent}):
            yield self.entry(name, view, unanswered=name in unanswered)

    def entry(self, name: str, view: View, *, unanswered: bool) -> Entry:
        return Entry(
            name=name,
            sent=self.sent.get(name, ""),
            accepted=self.accepted.get(name),
            wanted=view.resource(self.type_url, name),
            unanswered=unanswered,
            error=self.error if name in self.rejected else "",
            objects=self.rejected.get(name, ()),
        )

    def _state(self) -> SyncState:
        if self.error:
            return SyncState.NACK
        if self.open:
            return SyncState.STALE
        return SyncState.SYNCED if self.nonce else SyncState.NOT_SENT


def _weight(answers: Mapping[str, tuple[str, Touched]]) -> int:
    return sum(len(one.body) for _, touched in answers.values() for one in touched.values() if one)


def _blamed(touched: Touched, error: str) -> dict[str, tuple[ObjectKey, ...]]:
    """The resources of a rejected response that the error text names; all of them if it names none. With their objects."""
    sources = {name: resource.sources if resource else () for name, resource in touched.items()}
    return {name: keys for name, keys in sources.items() if _mentions(error, name)} or sources


def _mentions(text: str, name: str) -> bool:
    """Whether a name stands in a text, not only as a part of a longer one."""
    return name in text and re.search(rf"(?<![\w|.-]){re.escape(name)}(?![\w|-])", text) is not None


class Subscriptions:
    """The table of one stream: what was asked, sent, accepted, rejected.

    `receive` notes what the client says; `next_response` says what to send now, one response at a time, until it says None.
    """

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._types: dict[str, _Subscription] = {}  # in push order
        self._count = 0

    def receive(self, request: StateRequest | DeltaRequest) -> None:
        """Note a request."""
        first = request.type_url not in self._types
        if first:
            self._types[request.type_url] = _Subscription(request.type_url)
            self._types = dict(sorted(self._types.items(), key=_push_order))
        subscription = self._types[request.type_url]
        if isinstance(request, StateRequest):
            _receive_state(subscription, request, first)
        else:
            _receive_delta(subscription, request, first)

    def next_response(self, view: View) -> Response | None:
        """The next response to send for this view, in push order; None if the client is up to date."""
        for subscription in self._types.values():
            if subscription.due(view) and (response := self._response(subscription, view)):
                subscription.hold(response)
                return response
        return None

    def due(self, view: View) -> bool:
        """Whether there may be something to send for this view. Cheap: most changes concern few streams."""
        states = [subscription.due(view) for subscription in self._types.values()]  # all are brought to the view's revision
        return any(states)

    def questions(self, view: View, few: int) -> Iterator[tuple[str, str]]:
        """Types and names that the next responses look up, of types with more than a few."""
        for subscription in self._types.values():
            if (subscription.wildcard or len(subscription.names) > few) and subscription.due(view):
                suspects = subscription.suspects(view)
                names = subscription.wanted(view) if suspects is None else suspects
                if len(names) > few:
                    yield from ((subscription.type_url, name) for name in list(names))

    @property
    def types(self) -> int:
        """How many types were asked for."""
        return len(self._types)

    @property
    def names(self) -> int:
        """How many names the client gave, of all types."""
        return sum(len(subscription.names) for subscription in self._types.values())

    @property
    def followed(self) -> Iterator[tuple[str, Collection[str]]]:
        """For each type, the names that the client wants or holds."""
        for subscription in self._types.values():
            yield subscription.type_url, subscription.names | subscription.sent.keys()

    def status(self) -> tuple[TypeStatus, ...]:
        """A row for each type of the stream, in push order."""
        return tuple(subscription.status() for subscription in self._types.values())

    def entries(self, view: View) -> Mapping[str, tuple[Entry, ...]]:
        """For each type of the stream, in push order, what the client wants or holds."""
        return {one.type_url: tuple(one.entries(view)) for one in self._types.values()}

    def state_of(self, type_url: str, name: str, view: View) -> SyncState | None:
        """How far the client is with one name; None: it does not follow it."""
        subscription = self._types.get(type_url)
        if subscription is None or name not in subscription.names:
            return None
        unanswered = any(name in touched for _, touched in subscription.open.values())
        return subscription.entry(name, view, unanswered=unanswered).state

    def _response(self, subscription: _Subscription, view: View) -> Response | None:
        update = _update(self._variant, subscription, view)
        if update.complete:
            subscription.revision = view.revision
        if not update:
            return None
        self._repeat_endpoints(subscription, update)
        update.note_in(subscription)
        self._count += 1
        return Response(
            type_url=subscription.type_url,
            nonce=str(self._count),
            version=_digest(subscription.sent),
            resources=update.send,
            removed=update.removed,
        )

    def _repeat_endpoints(self, subscription: _Subscription, update: _Update) -> None:
        endpoints = self._types.get(ENDPOINT)
        if subscription.type_url == CLUSTER and endpoints is not None:
            # Our assignments are named as their clusters.
            endpoints.repeat |= update.changed & endpoints.sent.keys()


def _push_order(entry: tuple[str, _Subscription]) -> tuple[int, str]:
    type_url, _ = entry
    return (PUSH_ORDER.index(type_url) if type_url in PUSH_ORDER else len(PUSH_ORDER), type_url)


@dataclass(frozen=True, slots=True)
class _Update:
    """What a response will hold.

    Args:
        send, removed: what goes out.
        changed: the names among `send` that the client does not hold in this version.
        gone: names that it holds and that do not exist any more.
        complete: nothing is left for a further response.
        answer: it goes out even if it is empty.
    """

    send: tuple[Resource, ...]
    changed: frozenset[str]
    removed: tuple[str, ...]
    gone: frozenset[str]
    complete: bool
    answer: bool

    def __bool__(self) -> bool:
        return bool(self.send or self.removed or self.answer)

    def note_in(self, subscription: _Subscription) -> None:
        sent = {resource.name: resource.version for resource in self.send}
        subscription.drop(self.gone)
        subscription.sent.update(sent)
        subscription.repeat -= sent.keys() | set(self.removed)
        subscription.told_absent -= sent.keys()
        subscription.told_absent |= set(self.removed)


def _update(variant: Variant, subscription: _Subscription, view: View) -> _Update:
    suspects = subscription.suspects(view)
    full_state = variant is Variant.STATE_OF_THE_WORLD and subscription.type_url in _FULL_STATE
    looked_up = subscription.wanted(view) if suspects is None or full_state else suspects
    lookup = ((name, view.resource(subscription.type_url, name)) for name in sorted(looked_up))
    found = {name: resource for name, resource in lookup if resource is not None}
    settled = subscription.sent.keys() if looked_up is not suspects else suspects & subscription.sent.keys()
    gone = frozenset(settled - found.keys())
    changed = [
        resource
        for name, resource in found.items()
        if name in subscription.repeat or subscription.sent.get(name) != resource.version
    ]
    if full_state:
        needed = bool(changed or gone or subscription.answer)
        names = frozenset(resource.name for resource in changed)
        send = tuple(found.values()) if needed else ()
        return _Update(send, names, (), gone, complete=True, answer=needed)
    fitting = _fitting(changed)
    return _Update(
        send=fitting,
        changed=frozenset(resource.name for resource in fitting),
        removed=_removed(subscription, looked_up - found.keys(), gone) if variant is Variant.DELTA else (),
        gone=gone,
        complete=len(fitting) == len(changed),
        answer=subscription.answer,
    )


def _removed(subscription: _Subscription, missing: set[str], gone: Collection[str]) -> tuple[str, ...]:
    never_told = (subscription.names & missing) - subscription.told_absent
    return tuple(sorted({*gone, *never_told}))


def _fitting(resources: list[Resource]) -> tuple[Resource, ...]:
    """As many of the first resources as one response may hold; at least one."""
    size, fitting = 0, list[Resource]()
    for resource in resources:
        size += len(resource.body) + len(resource.name)
        if fitting and size > RESPONSE_BYTES:
            break
        fitting.append(resource)
    return tuple(fitting)


def _digest(versions: Mapping[str, str]) -> str:
    """The version of a set of resources: equal sets have equal versions, also after a restart of the control plane."""
    text = "\n".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _receive_state(subscription: _Subscription, request: StateRequest, first: bool) -> None:
    if not first and request.nonce != subscription.nonce:
        return  # stale, rule 1
    subscription.settle(request.nonce, request.error)
    before = (subscription.wildcard, frozenset(subscription.names))
    everything = not request.names and not subscription.named and subscription.type_url in _FULL_STATE
    wanted = {_WILDCARD} if everything else set(request.names)
    subscription.subscribe(wanted)
    subscription.unsubscribe({*subscription.names, _WILDCARD} - wanted)
    subscription.named = subscription.named and not everything
    wider = subscription.wildcard > before[0] or bool(subscription.names - before[1])
    subscription.answer = subscription.answer or first or wider


def _receive_delta(subscription: _Subscription, request: DeltaRequest, first: bool) -> None:
    subscription.settle(request.nonce, request.error)
    if first:
        subscription.sent = dict(request.initial_versions)
        subscription.answer = True
        if not request.subscribe and subscription.type_url in _FULL_STATE:
            subscription.subscribe([_WILDCARD])
    else:
        # Asked for again means: the client lost it, or never had it.
        subscription.repeat |= set(request.subscribe) - {_WILDCARD}
    subscription.told_absent -= set(request.subscribe)
    subscription.subscribe(request.subscribe)
    subscription.unsubscribe(request.unsubscribe)
    if not subscription.wildcard:
        subscription.drop(subscription.sent.keys() - subscription.names)
    # A new subscription is due now, not at the next change.
    if request.subscribe:
        subscription.revision = -1
