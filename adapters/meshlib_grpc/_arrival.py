"""One call that arrived: who sent it, may it enter, what the application sees of it, how it ended."""

from __future__ import annotations

import contextlib
import logging
from contextvars import Token
from types import TracebackType
from typing import Any

import grpc

from meshlib.facts import Peer
from meshlib.inbound.forwarded import HEADER, forged, forwarded_client_cert, withheld
from meshlib.inbound.sender import Sender, enter, leave, let_in
from meshlib.inbound.visit import Denied, Permit
from meshlib.runtime.admission import arrived, tell
from meshlib.runtime.mesh import Mesh

from ._acceptor import Sides, peers_of
from ._call import PROTOCOL, Tally
from ._convert import BY_NUMBER, Metadata, code_of_http, metadata_from, metadata_of, number_of, request_of

_log = logging.getLogger("meshlib.grpc")

_FOREVER = 1e9  # seconds; the blocking API says "no deadline" with a number beyond all calendars


class Arrival:
    """A call, from its first moment to its event. Used as a context manager around the application's handler.

    Args:
        context: gRPC's own servicer context, of either API.

    Raises:
        IdentityError: the client is gone, and with it the proof of who it was.

    Attributes:
        code: the status that the handler set, if it did.
        visit: what the filters of the port decide on; give their answer to `decided`.
        metadata: what the application sees, once it is decided.
    """

    def __init__(self, mesh: Mesh, method: str, context: Any) -> None:
        self.code: grpc.StatusCode | None = None
        self.received, self.sent = Tally(), Tally()
        self._finished = False
        self._failed = False
        self._mesh = mesh
        self._raw = raw = metadata_of(context.invocation_metadata())
        where: str = context.peer()
        sides = peers_of(mesh).find(where) or Sides(Peer(address=_address(where)))
        self.peer = sides.peer
        self._local_address = sides.local_address
        known = tuple([item for item in raw if not forged(item[0])])
        authority = _authority(context)
        request = request_of(authority or mesh.settings.service, method, known)
        self.record = mesh.telemetry.inbound(request, self.peer, _patience(context))
        self._token: Token[Sender] | None = enter(self.peer)
        self.visit = arrived(request, self.peer, self._local_address, mesh.counting)
        self.visit.knows_authority = bool(authority)  # grpc.aio keeps it to itself
        self.metadata: Metadata = ()
        self._denied: Denied | None = None

    @property
    def mesh(self) -> Mesh:
        """The mesh whose port the call came in at."""
        return self._mesh

    def decided(self, answer: Permit | Denied) -> Denied | None:
        """The filters have decided; None: the call may enter."""
        tell(_log, self._mesh.inbound, self.visit, answer)
        asked = self.record.request
        self.record.judged(self.visit.request, self.visit.dry_runs)
        if isinstance(answer, Denied):
            self._denied, self.code = answer, _code_of(answer)
            return answer
        let_in(answer.metadata)
        raw = self._raw if answer.request.headers is asked.headers else metadata_from(answer.request.headers)
        ours = str(self._mesh.certificates.spiffe_id or "")
        self.metadata = _admitted(raw, forwarded_client_cert(ours, self.peer), self.record.context.request_id)
        return None

    def __enter__(self) -> Arrival:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._failed = kind is not None
        # Whoever closes a generator before its end, or cancels a coroutine, does it because the client left.
        self._finished = kind is None or issubclass(kind, Exception)
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # a generator that the garbage collector closes ends in another context
                leave(token)
        self.record.close()

    def end(self, *, cancelled: bool = False) -> None:
        """The call is over: what was to be sent is sent, or nobody wants it. Only the first time counts."""
        gone = cancelled or not self._finished
        denied = self._denied
        code = self._code()
        self.record.end(
            self.record.event(
                status=0 if gone else 200,
                flags="DC" if gone else denied.flag if denied is not None else "-",
                detail=denied.detail if denied is not None and not gone else "",
                grpc_status="" if gone else number_of(code),
                protocol=PROTOCOL,
                local_address=self._local_address,
                bytes_received=self.received.size,
                bytes_sent=self.sent.size,
                messages=(self.received.messages, self.sent.messages),
            )
        )

    def _code(self) -> grpc.StatusCode:
        if self.code is None or (self.code is grpc.StatusCode.OK and self._failed):
            return grpc.StatusCode.UNKNOWN if self._failed else grpc.StatusCode.OK
        return self.code


def _admitted(metadata: Metadata, certificate: str | None, request_id: str) -> Metadata:
    kept = [item for item in metadata if not withheld(item[0]) and item != ("x-request-id", "")]
    if certificate is not None:
        kept.append((HEADER, certificate))
    if request_id and "x-request-id" not in dict(kept):
        kept.append(("x-request-id", request_id))
    return tuple(kept)


def _code_of(denied: Denied) -> grpc.StatusCode:
    if denied.grpc_status is not None:
        return BY_NUMBER.get(denied.grpc_status, grpc.StatusCode.UNKNOWN)
    return code_of_http(denied.status)


def _patience(context: Any) -> float | None:
    seconds: float | None = context.time_remaining()
    return None if seconds is None or seconds > _FOREVER else max(0.0, seconds)


def _authority(context: Any) -> str:
    event = getattr(context, "_rpc_event", None)
    details = getattr(event, "call_details", None)
    host = getattr(details, "host", b"")
    return host.decode("latin-1") if isinstance(host, bytes) else str(host or "")


def _address(peer: str) -> str:
    """`ip:port` of gRPC's `ipv4:10.0.0.1:40112`, `ipv6:%5B::1%5D:40112`; empty for others."""
    family, _, address = peer.partition(":")
    return address.replace("%5B", "[").replace("%5D", "]") if family in ("ipv4", "ipv6") else ""
