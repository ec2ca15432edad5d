"""TLS under a protocol that knows nothing of it: flow control, ends, broken bytes. No socket, no time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshlib.runtime.tls import TlsLayer
from meshlib_asgi.tls_transport import TlsTransport, TlsWire
from tests.support.pki import Authority


class Socket(asyncio.Transport):
    """A raw transport that keeps what is done to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.7", 5)})
        self.written = b""
        self.done: list[str] = []

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def set_protocol(self, protocol: Any) -> None:
        self.done.append("set_protocol")

    def is_closing(self) -> bool:
        return "close" in self.done or "abort" in self.done

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def pause_reading(self) -> None:
        self.done.append("pause_reading")

    def resume_reading(self) -> None:
        self.done.append("resume_reading")


class Application(asyncio.Protocol):
    """A protocol that keeps what it is told."""

    def __init__(self, *, stays: bool = False) -> None:
        self.told: list[Any] = []
        self.stays = stays

    def data_received(self, data: bytes) -> None:
        self.told.append(data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.stays

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")


class Session:
    """A client's layer on one side, the pair under test on the other."""

    def __init__(self, authority: Authority, application: Application) -> None:
        self.client = TlsLayer(authority.client_context(authority.issue("productpage")), server_side=False)
        self.raw = Socket()
        self.failed: list[str] = []
        self.established = 0
        layer = TlsLayer(authority.server_context(authority.issue("reviews")), server_side=True)
        self.transport = TlsTransport(self.raw, layer, application)
        self.wire = TlsWire(self.raw, self.transport, self._established, self.failed.append, limit=60)

    def _established(self) -> None:
        self.established += 1

    def shake(self) -> None:
        data = self.client.start()
        while data:
            self.wire.data_received(data)
            self.read()
            data = self.client.pending()

    def read(self) -> bytes:
        data, self.raw.written = self.raw.written, b""
        return self.client.receive(data)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
async def session(authority: Authority, application: Application) -> Session:
    session = Session(authority, application)
    session.shake()
    return session


async def test_plain_bytes_pass_both_ways(session: Session, application: Application) -> None:
    """One handshake, then what is written on one side is read on the other."""
    session.wire.data_received(session.client.send(b"request"))
    session.transport.writelines([b"resp", b"onse"])
    assert session.established == 1
    assert application.told == [b"request"]
    assert session.read() == b"response"


async def test_a_request_in_the_handshakes_last_flight_arrives(authority: Authority, application: Application) -> None:
    """TLS 1.3 clients send both at once: the protocol is connected first, then told."""
    session = Session(authority, application)
    session.wire.data_received(session.client.start())
    session.read()
    session.wire.data_received(session.client.pending() + session.client.send(b"early bird"))
    assert session.established == 1
    assert application.told == [b"early bird"]


async def test_flow_control_passes_through(session: Session, application: Application) -> None:
    """A full socket pauses the application; an application that is behind pauses the socket."""
    session.wire.pause_writing()
    session.wire.resume_writing()
    session.transport.pause_reading()
    session.transport.resume_reading()
    assert application.told == ["pause", "resume"]
    assert session.raw.done[-2:] == ["pause_reading", "resume_reading"]


async def test_flow_control_is_not_told_before_there_is_a_connection(authority: Authority, application: Application) -> None:
    """The protocol has no transport yet."""
    session = Session(authority, application)
    session.wire.pause_writing()
    session.wire.resume_writing()
    assert application.told == []


async def test_close_says_goodbye_once(session: Session) -> None:
    """close_notify, then the socket; nothing is written afterwards."""
    session.transport.close()
    session.transport.close()
    session.transport.write(b"late")
    assert session.read() == b""
    assert session.client.peer_closed
    assert session.raw.done.count("close") == 1
    assert session.transport.is_closing()


async def test_a_goodbye_of_the_peer_is_the_end_of_file(session: Session, application: Application) -> None:
    """A protocol that does not ask to stay is closed."""
    session.wire.data_received(session.client.close())
    assert application.told == ["eof"]
    assert session.transport.is_closing()


async def test_a_protocol_may_stay_after_the_peers_goodbye(authority: Authority) -> None:
    """Half-closed, as with a plain transport: it may go on writing."""
    session = Session(authority, Application(stays=True))
    session.shake()
    session.wire.data_received(session.client.close())
    assert not session.transport.is_closing()
    session.transport.write(b"last words")
    assert session.raw.written


async def test_broken_bytes_close_the_connection(session: Session, application: Application) -> None:
    """An alert for the peer, the reason for the log, nothing for the application."""
    session.wire.data_received(b"\x17\x03\x03\x00\x10" + b"x" * 16)
    assert session.failed
    assert session.raw.done[-1] == "close"
    assert application.told == []


async def test_bytes_after_a_close_reach_nobody(session: Session, application: Application) -> None:
    """A peer that goes on talking talks to itself."""
    late = session.client.send(b"late")
    session.transport.close()
    session.wire.data_received(late)
    assert application.told == []


async def test_the_scheme_is_not_https(session: Session) -> None:
    """Servers ask for `sslcontext`; those who want to know ask for `ssl_object`."""
    assert session.transport.get_extra_info("sslcontext") is None
    assert session.transport.get_extra_info("ssl_object") is session.transport.layer.session
    assert session.transport.get_extra_info("peername") == ("10.0.0.7", 5)


async def test_another_protocol_takes_over(session: Session, application: Application) -> None:
    """As a WebSocket upgrade does."""
    heir = Application()
    session.transport.set_protocol(heir)
    session.wire.data_received(session.client.send(b"frames"))
    session.wire.connection_lost(None)
    assert application.told == []
    assert heir.told == [b"frames", "lost"]
