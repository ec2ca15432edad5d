"""An identity from a SPIFFE Workload API, SPIRE's agent for example, instead of the control plane's CA.

    step ──no stream──> open, wait for the first message ──> Trust.install ──> new handshakes
    message on the stream ─────────────────────────────────> the same, at once
    stream ends ──> back off, open again; the last good identity stays

Rule 1: the agent decides who we are and when that is renewed; nothing is asked for again before the stream ends.
Rule 2: what cannot be used changes nothing, and is told. So does an agent's word that it has nothing for us any more: one that
        was just started says that, too. The identity in use ends with its certificate.
Rule 3: of several identities the first one counts whose SPIFFE id names a service account.
Rule 4: bundles of other trust domains are not taken: TLS has one list of roots, in which each would vouch for everybody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from meshlib.config.messages import message
from meshlib.errors import IdentityError, MeshError, WorkloadApiError
from meshlib.identity import svid
from meshlib.identity.spiffe import SpiffeId
from meshlib.identity.svid import Svid
from meshlib.runtime.certificates import Identity
from meshlib.runtime.schedule import back_off
from meshlib.runtime.trust import Trust

if TYPE_CHECKING:
    import grpc

SERVICE = "SpiffeWorkloadAPI"
SECURITY_HEADER = ("workload.spiffe.io", "true")
"""Shown with every call (SPIFFE_Workload_Endpoint.md 3): who can only make a process send requests cannot add it."""

FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0
"""Seconds: the back-off after a stream ended doubles from the first to the longest."""
PATIENCE = 10.0
"""Seconds for the first message of a stream, which an agent sends without delay (SPIFFE_Workload_API.md 4.3)."""
LONGEST_SLEEP = 30.0

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    # Of a path gRPC would make an authority with escapes in it, which servers in Go refuse.
    ("grpc.default_authority", "localhost"),
)
_ADVICE = {
    "No such file": "Is the agent running, and its socket visible here",
    "Connection refused": "Its agent has ended; start it again",
    "Permission denied": "May this user open the socket, and the folders on the way to it",
    "PERMISSION_DENIED": "Register this workload with the agent",
    "UNIMPLEMENTED": "Something else than a Workload API listens there",
}


class WorkloadApi:
    """The source of an identity. The owner's thread calls `step` and sleeps for what it returns.

    Args:
        endpoint: `unix:/PATH` or `tcp://IP:PORT`.
        trust: gets each identity.
        wall: seconds since the epoch.
        dice: uniform in [0.0, 1.0): spreads the back-off.
        wake: called, from another thread, when there is something to look at before the time is over.
    """

    def __init__(
        self,
        endpoint: str,
        trust: Trust,
        wall: Callable[[], float],
        dice: Callable[[], float],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._endpoint = endpoint
        self._trust = trust
        self._wall = wall
        self._dice = dice
        self._wake = wake
        self._stream: _Stream | None = None
        self._failures = 0
        self._due = 0.0
        self.problem: MeshError | None = None
        """Why there is no newer identity; None: nothing is known to be wrong."""

    def step(self) -> float:
        """Open the stream if there is none. Returns the seconds after which to call again; never raises a MeshError."""
        if self._stream is not None and self._stream.ended:
            return self._on_end(self._stream.end)
        left = self._due - self._wall()
        if self._stream is not None or 0 < left <= LONGEST_WAIT:
            return LONGEST_SLEEP if self._stream is not None else left
        self._stream = stream = _Stream(self._endpoint, self._accept, self._wake)
        stream.spoken.wait(PATIENCE)
        if stream.ended or not stream.spoken.is_set():
            return self._on_end(stream.end)
        return LONGEST_SLEEP

    def hasten(self, within: float = 0.0) -> None:
        """Nothing: an agent renews when it thinks fit, and has sent us its newest."""

    def close(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.close()

    def _on_end(self, reason: WorkloadApiError) -> float:
        assert self._stream is not None
        self._stream.close()
        self._stream, self.problem = None, reason
        self._failures += 1
        wait = back_off(self._failures, FIRST_WAIT, LONGEST_WAIT, self._dice())
        self._due = self._wall() + wait
        return wait

    def _accept(self, response: Any) -> None:
        """A message of the stream; in the stream's thread."""
        try:
            self._trust.install(identity_from(response, self._endpoint, self._wall()))
        except MeshError as error:
            self.problem = error
        else:
            self.problem, self._failures = None, 0


def identity_from(response: Any, endpoint: str, now: float) -> Identity:
    """The identity in a message of `FetchX509SVID`.

    Args:
        response: an X509SVIDResponse.
        endpoint: where it came from, for errors.
        now: seconds since the epoch.

    Raises:
        WorkloadApiError: there is none in it that the mesh knows what to do with.
    """
    found = [Svid(one.spiffe_id, one.x509_svid, one.x509_svid_key, one.bundle) for one in response.svids]
    try:
        ours = _of_a_service_account(found)
        leaf = svid.checked(ours, now)
        return Identity(svid.chain_pem(ours), svid.key_pem(ours), svid.bundle_pem(ours.bundle), leaf)
    except IdentityError as error:
        raise WorkloadApiError(f"the Workload API at {endpoint} gave an identity that cannot be used: {error}") from error


def _of_a_service_account(found: Iterable[Svid]) -> Svid:
    problem = IdentityError("the message holds none")
    for one in found:
        try:
            SpiffeId.parse(one.spiffe_id)
        except IdentityError as error:
            problem = error
        else:
            return one
    raise problem


class _Stream:
    """One call of `FetchX509SVID`, read in a thread of its own.

    Args:
        on_message: told each message.
        on_news: called after each message and at the end.

    `spoken` is set after the first message, and at the end.
    """

    def __init__(self, endpoint: str, on_message: Callable[[Any], None], on_news: Callable[[], None]) -> None:
        import grpc  # here, not above: as in `ca`

        self._endpoint = endpoint
        self.spoken = threading.Event()
        self.ended = False
        self.end = WorkloadApiError(f"the Workload API at {endpoint} does not answer. Is its agent well")
        self._channel = grpc.insecure_channel(endpoint.removeprefix("tcp://"), options=_OPTIONS)
        fetch = self._channel.unary_stream(
            f"/{SERVICE}/FetchX509SVID",
            lambda request: request.SerializeToString(),
            message("X509SVIDResponse").FromString,
        )
        call = fetch(message("X509SVIDRequest")(), metadata=[SECURITY_HEADER])
        threading.Thread(target=self._read, args=(call, on_message, on_news), name="meshlib-svids", daemon=True).start()

    def close(self) -> None:
        """End the call; idempotent."""
        self._channel.close()

    def _read(self, call: Any, on_message: Callable[[Any], None], on_news: Callable[[], None]) -> None:
        import grpc

        try:
            for response in call:
                on_message(response)
                self.spoken.set()
                on_news()
            self.end = WorkloadApiError(f"the Workload API at {self._endpoint} ended the stream")
        except grpc.RpcError as error:
            self.end = _translated(error, self._endpoint)
        finally:
            self.ended = True
            self.spoken.set()
            on_news()


def _translated(error: grpc.RpcError, endpoint: str) -> WorkloadApiError:
    status, detail = error.code().name, error.details() or ""
    what = "cannot be reached" if status == "UNAVAILABLE" else f"gives no identity ({status})"
    advice = next((text for sign, text in _ADVICE.items() if sign in (status, detail) or sign in detail), "Is its agent well")
    return WorkloadApiError(f"the Workload API at {endpoint} {what}: {detail}. {advice}")
