"""Servers of both APIs: one port for mutual TLS and plain text, what handlers know, what is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from meshlib.config.jwt import AnyOf, ClaimHeader, HeaderLocation, JwtAuthn, JwtProvider, Provided
from meshlib.config.model import PeerMode
from meshlib.config.rate_limit import LocalRateLimit, TokenBucket
from meshlib.identity.jwt import JwtProblem
from meshlib.inbound.admit import InboundPort
from meshlib_grpc import _acceptor
from meshlib_grpc.port import ACCEPTOR
from tests.conformance.tokens import forge
from tests.support.grpc_callers import SyncCaller
from tests.support.grpc_echo import Echo
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.pki import Authority, spiffe
from tests.support.rbac import ANY, rbac_filters, rules


@dataclass
class Served:
    """A server on a mesh, and a client in the mesh and one outside."""

    echo: Echo
    mesh: LocalMesh
    client: LocalMesh
    caller: SyncCaller

    def mode(self, mode: PeerMode) -> None:
        """What the port takes from now on."""
        self.mesh.inbound = InboundPort(mode)

    def plain(self, request: bytes = b"echo", method: str = "One", **options: Any) -> Any:
        """A call of somebody outside the mesh, over a connection of its own."""
        with grpc.insecure_channel(
            f"ipv4:127.0.0.1:{self.echo.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            return channel.unary_unary(f"/test.Echo/{method}")(request, timeout=10, **options)

    def events(self, count: int) -> list[Any]:
        """What the server told, once it told so many."""
        give_up = time.monotonic() + 5
        while len(self.mesh.events) < count and time.monotonic() < give_up:
            time.sleep(0.01)
        return self.mesh.events


@pytest.fixture(params=["sync", "aio"])
def served(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Served]:
    mesh, client = LocalMesh(authority, "reviews"), LocalMesh(authority)
    with Echo("v1", mesh, request.param) as echo:
        client.know(destination("reviews:9080", {"v1": [endpoint(echo.port, tls=True)]}, sans=[spiffe("reviews")], retry=None))
        caller = SyncCaller()
        caller.open(client)
        yield Served(echo, mesh, client, caller)
        caller.channel.close()


async def test_what_a_handler_knows(served: Served) -> None:
    """The peer's identity and address, the request's context, the deadline; metadata of the mesh stay with the mesh."""
    forged = (("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/default/sa/admin"), ("x-meshlib-peer", "forged"))
    told = await served.caller.one(timeout=5, metadata=forged)
    assert told["peer"] == spiffe("productpage")
    assert told["address"].startswith("ipv4:127.0.0.1:")
    assert told["metadata"]["x-forwarded-client-cert"].startswith(f"By={spiffe('reviews')};Hash=")
    assert told["metadata"]["x-forwarded-client-cert"].endswith(f'Subject="";URI={spiffe("productpage")}')
    assert "x-meshlib-peer" not in told["metadata"]
    assert 4 < told["left"] <= 5


async def test_events_of_a_server(served: Served) -> None:
    """The server tells who asked, what, over which port, and how it ended."""
    await served.caller.one()
    (event,) = served.events(1)
    assert (event.status, event.grpc_status, event.flags, event.secured) == (200, "0", "-", True)
    assert (event.source.principal, event.source.app) == (spiffe("productpage"), "productpage")
    assert (event.request_messages, event.response_messages, event.request_protocol) == (1, 1, "grpc")
    assert event.cluster == f"inbound|{served.echo.port}||"
    assert event.bytes_sent > 100


@pytest.mark.parametrize(
    ("request_", "method", "code"),
    [
        (b"abort code=NOT_FOUND", "One", "NOT_FOUND"),
        (b"raise", "One", "UNKNOWN"),
        (b"echo", "Missing", "UNIMPLEMENTED"),
    ],
)
async def test_calls_that_fail(served: Served, request_: bytes, method: str, code: str) -> None:
    """A status, an exception and a method that does not exist end as without the mesh, and are told."""
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(served.plain, request_, method)
    assert caught.value.code().name == code
    (event,) = served.events(1)
    assert (event.status, event.grpc_status) == (200, str(grpc.StatusCode[code].value[0]))
    assert event.path == f"/test.Echo/{method}"


async def test_tokens_of_users(served: Served) -> None:
    """A call's metadata is where a token is; what is proved is in metadata and claims, a bad one is UNAUTHENTICATED."""
    pair = forge.pairs()["ed"]
    provider = JwtProvider(
        name="users",
        issuer="me",
        jwks=json.dumps({"keys": [pair.public]}),
        locations=(HeaderLocation("authorization", "Bearer "),),
        claim_headers=(ClaimHeader("x-user", ("sub",)),),
        metadata_key="payload",
    )
    served.mesh.inbound = InboundPort(filters=(JwtAuthn((provider,), AnyOf((Provided("users"),), allow_missing=True)),))
    token = forge.token({"alg": "EdDSA"}, {"iss": "me", "sub": "joe"}, pair.sign["EdDSA"])
    told = await served.caller.one(metadata=(("authorization", f"Bearer {token}"), ("x-user", "admin")))
    assert (told["metadata"]["x-user"], told["claims"]) == ("joe", {"iss": "me", "sub": "joe"})
    assert "authorization" not in told["metadata"]
    assert (await served.caller.one())["claims"] == {}
    with pytest.raises(grpc.RpcError) as caught:
        await served.caller.one(metadata=(("authorization", f"Bearer {token[:-4]}"),))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details() == JwtProblem.SIGNATURE_BAD_LENGTH.value


async def test_a_policy_about_hosts_opens_no_door_by_what_a_server_does_not_know(served: Served, request: Any) -> None:
    """A blocking server compares the authority; one of grpc.aio is not told it, and lets nobody in by it."""
    host = {"header": {"name": ":authority", "string_match": {"exact": "elsewhere:1"}}}
    served.mesh.inbound = InboundPort(PeerMode.PERMISSIVE, filters=rbac_filters({"rules": rules("DENY", hosts=(host, ANY))}))
    if "sync" in request.node.name:
        assert (await served.caller.one(timeout=5))["peer"] == spiffe("productpage")
        return
    with pytest.raises(grpc.RpcError) as caught:
        await served.caller.one(timeout=5)
    assert caught.value.code().name == "PERMISSION_DENIED"


async def test_a_policy_decides_who_enters(served: Served) -> None:
    """Who is not allowed ends with PERMISSION_DENIED and Envoy's words, and the event has Envoy's response code details."""
    path, caller = {"url_path": {"path": {"exact": "/test.Echo/One"}}}, {"principal_name": {"exact": spiffe("productpage")}}
    filters = rbac_filters({"rules": rules("ALLOW", calls=(path, {"authenticated": caller}))})
    served.mesh.inbound = InboundPort(PeerMode.PERMISSIVE, filters=filters)
    assert (await served.caller.one(timeout=5))["peer"] == spiffe("productpage")
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(served.plain)
    assert (caught.value.code().name, caught.value.details()) == ("PERMISSION_DENIED", "RBAC: access denied")
    refused = served.events(2)[1]
    assert (refused.grpc_status, refused.flags, refused.detail) == ("7", "-", "rbac_access_denied_matched_policy[none]")


async def test_both_on_one_port(served: Served) -> None:
    """PERMISSIVE: the same port takes mutual TLS and plain text at the same time."""
    assert (await served.caller.one())["peer"] == spiffe("productpage")
    assert b'"peer": ""' in await asyncio.to_thread(served.plain)


async def test_strict(served: Served) -> None:
    """Plain text is closed without an answer; mutual TLS goes on."""
    served.mode(PeerMode.STRICT)
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(served.plain)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not served.echo.calls
    assert (await served.caller.one())["peer"] == spiffe("productpage")


async def test_strict_on_open_connections(served: Served) -> None:
    """A plain-text connection made before the mode became STRICT gets no further call through."""
    with grpc.insecure_channel(f"ipv4:127.0.0.1:{served.echo.port}") as channel:
        one, many = channel.unary_unary("/test.Echo/One"), channel.unary_stream("/test.Echo/Many")
        await asyncio.to_thread(one, b"echo")
        served.mode(PeerMode.STRICT)
        for call in (lambda: one(b"echo"), lambda: list(many(b"echo"))):
            with pytest.raises(grpc.RpcError) as caught:
                await asyncio.to_thread(call)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert len(served.echo.calls) == 1


async def test_disabled(served: Served) -> None:
    """DISABLE: plain text only; mutual TLS fails."""
    served.mode(PeerMode.DISABLE)
    assert b'"peer": ""' in await asyncio.to_thread(served.plain)
    with pytest.raises(grpc.RpcError):
        await served.caller.one()


async def test_a_client_without_a_certificate(served: Served) -> None:
    """TLS without a certificate of the mesh is refused while shaking hands."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def attempt() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", served.echo.port), 5) as raw,
            context.wrap_socket(raw) as secured,
        ):
            secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            return secured.recv(100)

    with pytest.raises(OSError, match=r"(?i)certificate required|reset|eof|closed"):
        assert await asyncio.to_thread(attempt) == b"never"


async def test_grpc_clients_with_tls_of_their_own(served: Served, authority: Authority) -> None:
    """The port chooses `h2`, without which gRPC's own TLS refuses to speak; so other clients with a certificate come in."""
    leaf = authority.issue("sleep")
    context = authority.client_context(leaf)
    context.set_alpn_protocols(["grpc-exp", "h2"])

    def chosen() -> str | None:
        with (
            socket.create_connection(("127.0.0.1", served.echo.port), 5) as raw,
            context.wrap_socket(raw) as secured,
        ):
            return secured.selected_alpn_protocol()

    assert await asyncio.to_thread(chosen) == "h2"


async def test_silent_clients_are_cut_off(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and says nothing, or begins a handshake and stops, has some seconds."""
    monkeypatch.setattr(_acceptor.Acceptor.__init__, "__kwdefaults__", {"patience": 0.2})
    with Echo("v1", LocalMesh(authority, "reviews")) as echo:
        for start in (b"", b"\x16"):
            with socket.create_connection(("127.0.0.1", echo.port), 5) as raw:
                raw.sendall(start)
                raw.settimeout(5)
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.to_thread(raw.recv, 100) == b""


async def test_server_rotation(served: Served, authority: Authority) -> None:
    """A new certificate is shown to new connections; a call under way goes on over the old one."""

    def shown() -> bytes:
        context = authority.client_context(authority.issue("sleep"))
        with socket.create_connection(("127.0.0.1", served.echo.port), 5) as raw, context.wrap_socket(raw) as secured:
            return secured.getpeercert(binary_form=True) or b""

    call = await served.caller.begin("Many", b"endless")
    await call.next()
    before = await asyncio.to_thread(shown)
    served.mesh.certificates.rotate()
    assert await asyncio.to_thread(shown) != before
    served.echo.cancelled.set()
    if served.echo.api == "sync":
        await call.next()
        await call.next()
        assert await call.code() is grpc.StatusCode.OK
    else:
        call.cancel()


async def test_a_client_that_gives_up(served: Served) -> None:
    """The handler of a cancelled call is told, and the event has flag DC and no status."""
    call = await served.caller.begin("One", b"slow seconds=20")
    assert await asyncio.to_thread(served.echo.entered.wait, 5)
    call.cancel()
    assert await asyncio.to_thread(served.echo.cancelled.wait, 5)
    (event,) = served.events(1)
    assert (event.status, event.flags, event.grpc_status) == (0, "DC", "")


async def test_stopping(served: Served) -> None:
    """A stopped server takes no new connection, finishes what it has in the time it is given, and leaves nothing behind."""
    folder = os.path.dirname(getattr(served.echo.server, ACCEPTOR).target)
    assert os.stat(folder).st_mode & 0o777 == 0o700
    call = await served.caller.begin("One", b"slow seconds=1")
    assert await asyncio.to_thread(served.echo.entered.wait, 5)
    stopping = asyncio.create_task(asyncio.to_thread(served.echo.stop, 5))
    assert await call.code() is grpc.StatusCode.OK
    await stopping
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.echo.port), 2)
    await asyncio.to_thread(gone, folder)


def gone(folder: str) -> None:
    """Waits until a folder is no more."""
    give_up = time.monotonic() + 5
    while os.path.exists(folder):
        assert time.monotonic() < give_up
        time.sleep(0.02)


async def test_registration(served: Served) -> None:
    """The server's real port is announced once it listens."""
    assert served.mesh.served == [(served.echo.port, "127.0.0.1")]


def test_a_port_that_is_taken(authority: Authority) -> None:
    """As with gRPC's own servers: RuntimeError."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        acceptor = _acceptor.Acceptor(LocalMesh(authority, "reviews"))  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="Failed to bind to address"):
            acceptor.bind(f"127.0.0.1:{other.getsockname()[1]}")
        acceptor.drain()


async def test_no_thread_before_start(authority: Authority) -> None:
    """Taking a port starts nothing, so that a process may fork between `add_port` and `start`."""
    before = threading.active_count()
    acceptor = _acceptor.Acceptor(LocalMesh(authority, "reviews"))  # type: ignore[arg-type]
    assert acceptor.bind("127.0.0.1:0") > 0
    assert threading.active_count() == before
    acceptor.drain()


async def test_rate_limits(served: Served) -> None:
    """The second call is refused with Envoy's words; who says so gets RESOURCE_EXHAUSTED instead of UNAVAILABLE."""
    for exhausted, code in ((False, grpc.StatusCode.UNAVAILABLE), (True, grpc.StatusCode.RESOURCE_EXHAUSTED)):
        one = TokenBucket(1, 1, 6000.0)
        limit = LocalRateLimit(
            f"l-{exhausted}",
            one,
            enabled=1.0,
            enforced=1.0,
            refused_headers=(("x-local-rate-limit", "true"),),
            exhausted=exhausted,
        )
        served.mesh.inbound = InboundPort(filters=(limit,))
        before = len(served.echo.calls)
        await asyncio.to_thread(served.plain)
        with pytest.raises(grpc.RpcError) as caught:
            await asyncio.to_thread(served.plain)
        assert (caught.value.code(), caught.value.details()) == (code, "local_rate_limited")
        assert ("x-local-rate-limit", "true") in [tuple(pair) for pair in caught.value.trailing_metadata()]
        assert len(served.echo.calls) == before + 1
    assert [event.flags for event in served.events(4)] == ["-", "RL", "-", "RL"]
