"""What an application's handler sees of a call: gRPC's own context, with the peer and the metadata that the mesh knows."""

from __future__ import annotations

from typing import Any

import grpc

from ._arrival import Arrival


class Context:
    """A servicer context of the blocking API; everything that is not here is gRPC's own."""

    def __init__(self, context: Any, arrival: Arrival) -> None:
        self._context = context
        self._arrival = arrival

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> Any:
        """Without what a client may not say, and with what the mesh knows."""
        return self._arrival.metadata

    def peer(self) -> str:
        """`ipv4:10.0.0.1:40112`: who is on the other side of the network, not of the Unix socket."""
        address = self._arrival.peer.address
        if not address:
            return str(self._context.peer())
        return f"ipv6:{address.replace('[', '%5B').replace(']', '%5D')}" if address.startswith("[") else f"ipv4:{address}"

    def set_code(self, code: Any) -> None:
        """The status to end with."""
        self._arrival.code = code
        self._context.set_code(code)

    def abort(self, code: Any, details: str = "", *more: Any) -> Any:
        """End the call with a status; raises."""
        self._arrival.code = code
        return self._context.abort(code, details, *more)

    def abort_with_status(self, status: Any) -> Any:
        """End the call with a status; raises."""
        self._arrival.code = status.code
        return self._context.abort_with_status(status)

    def auth_context(self) -> Any:
        """gRPC's own, and the SPIFFE id of a peer of the mesh under gRPC's name for it."""
        known = dict(self._context.auth_context() or {})
        if self._arrival.peer.secured:
            known |= {"transport_security_type": [b"ssl"], "peer_spiffe_id": [self._arrival.peer.spiffe_id.encode()]}
        return known

    def peer_identity_key(self) -> Any:
        """The name in `auth_context` under which a peer of the mesh is known."""
        return "peer_spiffe_id" if self._arrival.peer.secured else self._context.peer_identity_key()

    def peer_identities(self) -> Any:
        """The SPIFFE id of a peer of the mesh."""
        return [self._arrival.peer.spiffe_id.encode()] if self._arrival.peer.secured else self._context.peer_identities()


class AioContext(Context):
    """The same for asyncio, where `abort` is a coroutine."""


# Handlers may ask with isinstance. They get a view and no subclass: the base has dozens of methods to repeat.
grpc.ServicerContext.register(Context)
grpc.aio.ServicerContext.register(AioContext)
