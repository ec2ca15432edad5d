"""The SPIFFE Workload API on a Unix socket: our certificate, its key and the roots, for programs that know SPIFFE and not us.

    program ──> door: the socket; who is it? ──> gRPC in a private folder ──> newest identity, and each one after it

Rule 1: whoever may open the socket becomes who we are: it is for its owner (0600), or for a group (0660). Besides the file's
        mode the kernel is asked who has connected, where it tells: a `chmod -R` changes modes.
Rule 2: every message is the whole truth (SPIFFE_Workload_API.md 4.3); who reads slowly gets the newest one next.
Rule 3: a certificate that is over is given to nobody; who has it keeps its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import stat
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from meshlib.config.messages import message
from meshlib.errors import SettingsError
from meshlib.identity.rotation import explain
from meshlib.identity.spiffe import SpiffeId
from meshlib.identity.svid import svid_from_pem
from meshlib.runtime.certificates import Identity
from meshlib.runtime.workload_api import SECURITY_HEADER, SERVICE

_NO_JWT = "no JWT-SVIDs are given out here; X.509-SVIDs are: FetchX509SVID"
_NOT_SAFE = f"the request lacks the metadata {SECURITY_HEADER[0]}: {SECURITY_HEADER[1]} (SPIFFE_Workload_Endpoint.md 3)"
_CHUNK = 65536
_CREDENTIALS = struct.Struct("3i")  # unix(7): pid, uid, gid
_SO_PEERGROUPS = 59  # Linux's <asm-generic/socket.h>; Python has no name for it
_MOST_GROUPS = 256  # as many as Python's getsockopt has room for

_log = logging.getLogger("meshlib")


class WorkloadApiServer:
    """Hands out the newest identity. For one event loop.

    Args:
        wall: seconds since the epoch.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._identity: Identity | None = None
        self._changed = asyncio.Event()

    def publish(self, identity: Identity) -> None:
        """Everybody gets this one from now on."""
        self._identity = identity
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @contextlib.asynccontextmanager
    async def serving(self, path: Path, group: str = "") -> AsyncIterator[None]:
        """Serves at a socket while the context lasts; one that nobody listens on any more is replaced.

        Args:
            path: absolute; its folder is made if it is not there, for us alone.
            group: whose members may connect as well; empty: nobody's.

        Raises:
            SettingsError: the socket cannot be made, somebody listens there already, or there is no such group.
        """
        gid = _gid(group) if group else None
        with tempfile.TemporaryDirectory(prefix="meshlib-") as private, _bound(path, gid) as listener:  # its mode is 0700
            inner = f"{private}/grpc.sock"
            server = grpc.aio.server()
            server.add_generic_rpc_handlers((self._handlers(),))
            server.add_insecure_port(f"unix:{inner}")
            await server.start()
            door = _Door(inner, gid)
            outside = await asyncio.start_unix_server(door.enter, sock=listener)
            try:
                yield
            finally:
                outside.close()
                _remove(path)
                await server.stop(None)
                await door.empty()

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "FetchX509SVID": grpc.unary_stream_rpc_method_handler(self._streaming(_svids)),
                "FetchX509Bundles": grpc.unary_stream_rpc_method_handler(self._streaming(_bundles)),
                "FetchJWTSVID": grpc.unary_unary_rpc_method_handler(_no_jwt),
                "FetchJWTBundles": grpc.unary_stream_rpc_method_handler(_no_jwts),
                "ValidateJWTSVID": grpc.unary_unary_rpc_method_handler(_no_jwt),
            },
        )

    def _streaming(self, form: Callable[[Identity], Any]) -> Callable[[bytes, Any], AsyncIterator[bytes]]:
        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            if SECURITY_HEADER not in (context.invocation_metadata() or ()):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _NOT_SAFE)
            problem = self._problem()
            if problem:
                await context.abort(grpc.StatusCode.UNAVAILABLE, problem)
            async for identity in self._states():
                yield form(identity).SerializeToString()

        return stream

    def _problem(self) -> str:
        if self._identity is None:
            return "there is no certificate yet"
        leaf = self._identity.leaf
        why = explain(self._wall(), leaf.not_before, leaf.not_after)
        return f"the certificate of {leaf.spiffe_id} cannot be used: {why}" if why else ""

    async def _states(self) -> AsyncIterator[Identity]:
        while True:
            changed = self._changed
            if self._identity is not None:
                yield self._identity
            await changed.wait()


@dataclass(frozen=True, slots=True)
class PublishedCertificate:
    """A place for a `CertificateKeeper` in another thread.

    Args:
        path: of the socket, for people.
        loop: the server's.
    """

    path: Path
    server: WorkloadApiServer
    loop: asyncio.AbstractEventLoop

    def write(self, identity: Identity) -> None:
        """Give it to everybody who asks."""
        self.loop.call_soon_threadsafe(self.server.publish, identity)


def _svids(identity: Identity) -> Any:
    ours = svid_from_pem(identity.chain, identity.key, identity.roots)
    one = message("X509SVID")(spiffe_id=ours.spiffe_id, x509_svid=ours.chain, x509_svid_key=ours.key, bundle=ours.bundle)
    return message("X509SVIDResponse")(svids=[one])


def _bundles(identity: Identity) -> Any:
    ours = svid_from_pem(identity.chain, identity.key, identity.roots)
    domain = SpiffeId.parse(ours.spiffe_id).trust_domain
    return message("X509BundlesResponse")(bundles={f"spiffe://{domain}": ours.bundle})


async def _no_jwt(request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NO_JWT)
    raise AssertionError  # never reached: abort raises


async def _no_jwts(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield await _no_jwt(request, context)


class _Door:
    """Looks who comes, and leads the bytes of those who may in to gRPC, which cannot look itself.

    Args:
        inner: path of gRPC's socket.
        gid: whose members may enter besides our own user and root; None: nobody's.
    """

    def __init__(self, inner: str, gid: int | None) -> None:
        self._inner = inner
        self._gid = gid
        self._inside: set[asyncio.Future[None]] = set()

    async def empty(self) -> None:
        """Until nobody is inside any more: gRPC has ended, and so has what leads to it."""
        if self._inside:
            await asyncio.wait(self._inside, timeout=1.0)

    def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """For `asyncio.start_unix_server`."""
        visit = asyncio.ensure_future(self._led_in(reader, writer))
        self._inside.add(visit)
        visit.add_done_callback(self._inside.discard)

    async def _led_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            stranger = self._stranger(writer.get_extra_info("socket"))
            if stranger:
                _log.warning("meshlib: %s may not have our identity and was turned away from the Workload API", stranger)
                return
            with contextlib.suppress(OSError):  # either side may leave at any time
                inside, outside = await asyncio.open_unix_connection(self._inner)
                with contextlib.closing(outside):
                    await _first_of(_copied(reader, outside), _copied(inside, writer))

    def _stranger(self, connection: Any) -> str:
        """Who it is that may not enter; empty: it may."""
        if not hasattr(socket, "SO_PEERCRED"):
            return ""  # the file's mode alone decides
        pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        may = uid in (0, os.geteuid()) or (self._gid is not None and self._gid in (gid, *_groups(connection)))
        return "" if may else f"process {pid} of user {uid}"


def _groups(connection: Any) -> tuple[int, ...]:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError:  # an old kernel, or more of them: none is known
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


async def _copied(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK):
        target.write(chunk)
        await target.drain()


async def _first_of(*ways: Awaitable[None]) -> None:
    """Until one of them is over: a gRPC connection is of no use in one direction."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _bound(path: Path, gid: int | None) -> socket.socket:
    """A socket at a path with the mode it is to have before anybody can find it there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_taken(path)
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        listener.bind(str(draft))
        if gid is not None:
            os.chown(draft, -1, gid)
        draft.chmod(0o600 if gid is None else 0o660)
        listener.listen()
        draft.rename(path)
    except OSError as error:
        listener.close()
        draft.unlink(missing_ok=True)
        raise SettingsError(f"the Workload API cannot be served at {path}: {error.strerror or error}") from error
    return listener


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _refuse_taken(path: Path) -> None:
    """Raises OSError if something is there that is not a socket which nobody listens on."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(errno.EEXIST, "a file is there that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left behind by one that was killed
    raise OSError(errno.EADDRINUSE, "somebody serves there already")


def _gid(group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise SettingsError(f"there is no group {group!r}") from error
