"""The control thread: the one owner of the subscription, fed by a queue of events.

    callers ──Wanted, Unanswered───────────┐                          ┌─> snapshot (read by everybody, no lock)
    servers ──Served, Certified, Withdrawn─┤                          ├─> requests on the stream
    stream  ──Arrived, Ended───────────────┼─> queue ─> this thread ──┤
    owner   ──Stopped──────────────────────┘            ^             ├─> waiting callers
    time    ──what is due───────────────────────────────┘             └─> copy on disk

    CONNECTING ──first response──> LIVE ──stream ends──> CONNECTING
        └── patience over, or credential refused ──> DOWN ──first response──> LIVE

While CONNECTING callers wait; while DOWN they are answered at once: from what is known, from the disk, or Absent.
Rule 1: losing the control plane changes nothing for what is known.
Rule 2: an outage is told once, its end once.
Whether others are sent to a port of ours is decided in `listing`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

from meshlib.config.snapshot import ABSENT, Snapshot
from meshlib.config.subscription import Ask, Item, Kind, Subscription
from meshlib.errors import ControlPlaneError, CredentialError, MeshError
from meshlib.runtime import events
from meshlib.runtime.cache import DiskCache, folder_of
from meshlib.runtime.events import Announcement, Event, Found, State
from meshlib.runtime.listing import Anew, Listing
from meshlib.runtime.own_port import OwnPort
from meshlib.runtime.schedule import Timers, back_off
from meshlib.runtime.settings import Settings
from meshlib.runtime.waiters import Waiters
from meshlib.runtime.xds import Stream, from_response, item

PATIENCE = 2.0
"""Seconds that a request waits for a control plane that has not answered yet."""
GRACE = 10.0
"""Seconds after a reconnect before losses count: longer than the longest wait of others who reconnect as well."""
FIRST_RETRY, LONGEST_RETRY = 1.0, 5.0
"""Longest seconds between tries to connect, at first and at last; doubling."""
CACHE_PAUSE = 1.0
"""Seconds between two copies of changes to disk. What is new is copied at once: a process may be killed at any time."""
DRAIN, LONGEST_DRAIN = 0.5, 1.5
"""Seconds for others to hear that a registration was taken back: once the control plane has read it; if it never does."""
MOST_ABSENT = 2000
"""Names outside the mesh that are followed; beyond, all are forgotten and asked for again when used."""

_log = logging.getLogger("meshlib")

Open = Callable[[Settings, Announcement, Callable[[bytes], None], Callable[[ControlPlaneError], None]], Stream]


class Control:
    """Runs until `stop`. Every public method may be called from any thread.

    Args:
        address: the IP address to announce until a server says another.
        open_stream: makes a stream.
        clock: seconds, monotonic. dice: uniform in [0.0, 1.0).
        on_change: told each new snapshot, in the control thread.
    """

    def __init__(
        self,
        settings: Settings,
        address: str,
        open_stream: Open,
        dice: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[Snapshot], None] = lambda snapshot: None,
    ) -> None:
        self.state = State.CONNECTING
        self.problem: MeshError | None = None
        self.acknowledged = threading.Event()  # the control plane has listed the port that was served last
        self.address = address
        self.own_port = OwnPort(strict=settings.strict)
        self._settings = settings
        self._dice, self._open, self._on_change = dice, open_stream, on_change
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        # Below: the control thread's own.
        self._subscription = Subscription()
        self.snapshot: Snapshot = self._subscription.snapshot
        self._waiters = Waiters()
        self._unanswered: set[str] = set()
        self._stream: Stream | None = None
        self._number = 0
        self._failures = 0
        self._listing = Listing(address)
        self._acknowledged = self.acknowledged
        self._draining: list[Future[None]] = []
        self._was_live, self._restored = False, False
        self._left: Mapping[Kind, Iterable[Item]] | None = None
        self._told = ""
        self._timers = Timers(clock)
        self._cache = DiskCache(folder_of(settings), item)

    @property
    def announcement(self) -> Announcement:
        """Who we are on the stream."""
        return self._listing.announcement

    def start(self) -> None:
        """Begin. Call once."""
        self._thread = threading.Thread(target=self._run, name="meshlib-control", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the stream and the thread; waiting callers get Absent. Idempotent."""
        self._events.put(events.Stopped())
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def want(self, name: str) -> Future[Found]:
        """Follow a destination; the future is resolved when it is known or known to be out of reach."""
        waiter: Future[Found] = Future()
        self._events.put(events.Wanted(name, waiter))
        return waiter

    def give_up(self, name: str) -> None:
        """A caller waited long enough: until news of `name` comes, others need not wait."""
        self._events.put(events.Unanswered(name))

    def serve(self, announcement: Announcement) -> None:
        """Announce our port, in place of the one before; it is listed as soon as we are `certified`."""
        self.acknowledged = threading.Event()
        if announcement.inbound_name != self.announcement.inbound_name:
            self.own_port.expect()
        self._events.put(events.Served(announcement, self.acknowledged))

    def certified(self) -> None:
        """We can do mutual TLS from now on."""
        self._events.put(events.Certified())

    def withdraw(self) -> Future[None]:
        """Take the registration back; done when others had the time to hear of it. For signal handlers too: takes no lock."""
        done: Future[None] = Future()
        self._events.put(events.Withdrawn(done))
        return done

    # The thread

    def _run(self) -> None:
        self._left = self._cache.load()  # now, so that a broken cache is told at the start and not in the next outage
        self.own_port.remember(self._left[Kind.LISTENER])
        while True:
            event = self._next()
            if isinstance(event, events.Stopped):
                break
            try:
                self._handle(event)
            except Exception:  # a fault of ours must not stop the mesh: what is known goes on being used
                _log.exception("meshlib: handling %s failed", type(event).__name__)
        self._close()

    def _next(self) -> Event | None:
        try:
            return self._events.get(timeout=self._timers.wait())
        except queue.Empty:
            return None

    def _handle(self, event: Event | None) -> None:
        match event:
            case events.Wanted():
                self._want(event)
            case events.Unanswered():
                self._on_unanswered(event.name)
            case events.Served():
                self._acknowledged = event.acknowledged
                self._announce(self._listing.served(event.announcement))
            case events.Certified():
                self._announce(self._listing.certified())
                self._connect()  # there may have been nothing to show before
            case events.Withdrawn():
                self._withdraw(event.done)
            case events.Arrived() if event.number == self._number:
                self._on_arrived(event.raw)
            case events.Ended() if event.number == self._number:
                self._on_ended(event.error)
            case _:
                pass  # a timer, or a word from a stream that is no longer ours
        self._timers.run_due()
        self.own_port.decide(self._listing.policy, self.snapshot, self.state)

    # Callers

    def _want(self, event: events.Wanted) -> None:
        self._waiters.add(event.name, event.waiter)
        if event.name not in self._subscription.wanted_names:
            self._forget_some_absent()
            self._send(self._subscription.want((event.name,)))
            self._publish()
        in_vain = self.state is State.DOWN or event.name in self._unanswered
        self._waiters.answer_one(event.name, self._found(event.name) if in_vain else self.snapshot.destination(event.name))

    def _forget_some_absent(self) -> None:
        # A crawler asks for a new host with every request; what is outside the mesh must not pile up.
        if len(self.snapshot.absent) >= MOST_ABSENT:
            self._send(self._subscription.forget(self.snapshot.absent - {self._listing.policy}))

    def _on_unanswered(self, name: str) -> None:
        if self.snapshot.destination(name) is not None or name in self._unanswered:
            return
        if self.state is State.LIVE and not self._unanswered:
            _log.warning(
                "meshlib: the control plane at %s does not answer for %s; requests to it go outside the mesh until it does",
                self._settings.control_plane,
                name,
            )
        self._unanswered.add(name)

    def _found(self, name: str) -> Found:
        """The answer for those who need not wait any longer."""
        return self.snapshot.destination(name) or ABSENT

    # Our port

    def _announce(self, anew: Anew | None) -> None:
        if anew is not None:
            self._acknowledged.clear()
            self._drop_stream()
            if anew.forget:  # else the policy stays in force meanwhile
                self._subscription.forget((anew.forget,))
            self._subscription.want((anew.follow,))
            self._expect(anew.follow)
            self._failures = 0
            self._connect()
        self._acknowledge()

    def _expect(self, policy: str) -> None:
        left = self.own_port.left(policy)
        if left:  # in force at once: whom an earlier process refused, this one does not let in meanwhile
            self._subscription.restore({Kind.LISTENER: left})
            self.snapshot, self._restored = self._subscription.snapshot, True
        self._be_patient()

    def _be_patient(self) -> None:
        self.own_port.be_patient()
        self._timers.after(PATIENCE, self.own_port.lose_patience)

    def _acknowledge(self) -> None:
        policy = self._listing.policy
        if self._listing.known(answered=policy in self.snapshot.inbound or policy in self.snapshot.absent):
            self._acknowledged.set()

    def _withdraw(self, done: Future[None]) -> None:
        heard = self.announcement.listed and self.state is State.LIVE
        self._announce(self._listing.withdrawn())
        self._draining.append(done)
        self._timers.after(LONGEST_DRAIN if heard else 0.0, self._end_drain)

    def _end_drain(self) -> None:
        drained, self._draining = self._draining, []
        for done in drained:
            if done.set_running_or_notify_cancel():
                done.set_result(None)

    # The stream

    def _connect(self) -> None:
        if self._stream is not None or not self._subscription.wanted_names:
            return
        self._timers.cancel(self._connect)
        self._listing.opened()
        if self.state is State.CONNECTING and self._lose_patience not in self._timers:
            self._timers.after(PATIENCE, self._lose_patience)
        self._number += 1
        tell, number = self._events.put, self._number
        try:
            self._stream = self._open(
                self._settings,
                self.announcement,
                lambda raw: tell(events.Arrived(number, raw)),
                lambda error: tell(events.Ended(number, error)),
            )
        except MeshError as error:
            self._on_failure(error)
            return
        # A stream that we ourselves reopen meets a control plane that knows everybody: no grace.
        self._send(self._subscription.on_connect(grace=self.state is not State.LIVE))

    def _send(self, asks: tuple[Ask, ...]) -> None:
        if self._stream is not None:
            self._stream.send(asks)
        elif self._connect not in self._timers:
            self._connect()

    def _drop_stream(self) -> None:
        stream, self._stream = self._stream, None
        self._number += 1
        self._subscription.on_disconnect()
        self._timers.cancel(self._end_grace)
        if stream is not None:
            stream.close()

    def _on_arrived(self, raw: bytes) -> None:
        self._on_live()
        update = from_response(raw)
        if update is None:
            return
        if update.problem:
            _log.error("meshlib: refused %s from the control plane, the old one stays: %s", update.kind.value, update.problem)
        self.own_port.told(self._listing.policy, update)
        asks, changed = self._subscription.on_response(update)
        self._send(asks)
        if update.kind is Kind.LISTENER and self._listing.heard() and self._draining:
            self._timers.after(DRAIN, self._end_drain)
        if changed:
            self._publish()
        self._acknowledge()

    def _on_live(self) -> None:
        if self.state is State.LIVE:
            return
        if self._told:
            _log.info("meshlib: the control plane at %s is back", self._settings.control_plane)
        if self._was_live or self._restored:
            self._timers.after(GRACE, self._end_grace)
        self.state, self._was_live = State.LIVE, True
        self.problem, self._told, self._failures, self._left = None, "", 0, None
        self._unanswered.clear()
        self._timers.cancel(self._lose_patience)
        self._be_patient()

    def _end_grace(self) -> None:
        asks, changed = self._subscription.on_grace_over()
        self._send(asks)
        if changed:
            self._publish()

    def _on_ended(self, error: ControlPlaneError) -> None:
        self._drop_stream()
        if self.state is State.LIVE:
            self.state = State.CONNECTING
            self._timers.after(PATIENCE, self._lose_patience)
        self._on_failure(error)

    def _on_failure(self, error: MeshError) -> None:
        self.problem = error
        self._failures += 1
        self._timers.after(back_off(self._failures, FIRST_RETRY, LONGEST_RETRY, self._dice()), self._connect)
        self._restore()
        self._waiters.answer(self.snapshot.destination)
        if isinstance(error, CredentialError):  # waiting will not make the token right
            self._go_down()

    def _lose_patience(self) -> None:
        if self.state is State.CONNECTING:
            self._go_down()

    def _go_down(self) -> None:
        self.state = State.DOWN
        self._restore()
        self._tell_outage()
        self._waiters.answer(self._found)

    def _tell_outage(self) -> None:
        what = str(self.problem or f"the control plane at {self._settings.control_plane} does not answer")
        if not self._told:
            known = len(self.snapshot.destinations)
            _log.warning(
                "meshlib: %s; going on with what is known (%d destinations), other hosts go outside the mesh", what, known
            )
        self._told = self._told or what

    # What is in force, and its copy on disk

    def _publish(self) -> None:
        self.snapshot = self._subscription.snapshot
        self._unanswered = {name for name in self._unanswered if self.snapshot.destination(name) is None}
        self._waiters.answer(self.snapshot.destination)
        self._acknowledge()
        self._on_change(self.snapshot)
        if self._cache.lacks(self.snapshot.destinations.keys() | self.snapshot.inbound.keys()):
            self._write_cache()
        elif self._write_cache not in self._timers:
            self._timers.after(CACHE_PAUSE, self._write_cache)

    def _restore(self) -> None:
        """Take what an earlier process left, if the control plane never answered this one."""
        if self._left is not None:
            self._subscription.restore(self._left)
            self.snapshot = self._subscription.snapshot
            self._left, self._restored = None, True

    def _write_cache(self) -> None:
        in_force: dict[str, object] = {**self.snapshot.destinations, **self.snapshot.inbound}
        self._cache.keep(in_force, self.snapshot.absent, self._subscription.complete)

    def _close(self) -> None:
        self._drop_stream()
        if self._write_cache in self._timers:
            self._write_cache()
        self._waiters.answer(self._found)
        self._end_drain()
