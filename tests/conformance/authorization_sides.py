"""The two sides of the authorization referee: a real Envoy, and our engine behind the ASGI adapter's reading of bytes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import json_format
from uvicorn.config import Config
from uvicorn.server import ServerState

from meshlib.config import messages
from meshlib.config.decode import decode
from meshlib.config.policy import InboundListener
from meshlib.config.subscription import Kind
from meshlib.facts import Peer
from meshlib.inbound.admit import InboundPort, port_of
from meshlib.inbound.visit import Denied, Visit
from meshlib.runtime.admission import admit_sync
from meshlib_asgi._convert import Scope, admitted, request_of
from meshlib_asgi.protocol import MeshProtocol
from tests.conformance.authorization_drawing import World
from tests.support import envoy
from tests.support.mesh import LocalMesh
from tests.support.pki import Authority, Leaf

Json = dict[str, Any]


class Seen(NamedTuple):
    """What became of a request: status, and for those that entered the path and authority that the application is given."""

    status: int
    path: str = ""
    authority: str = ""

    @property
    def entered(self) -> bool:
        """Whether it reached the application."""
        return self.status == 200


@dataclass(frozen=True)
class Caller:
    """Who asks: the holder of a certificate, or nobody over plain text.

    Args:
        server_name: of the TLS hello.
    """

    leaf: Leaf | None = None
    server_name: str = ""

    @property
    def identity(self) -> str:
        """Its SPIFFE id."""
        return self.leaf.spiffe_id if self.leaf else ""


def listener(name: str, world: World, authority: Authority, server: Leaf) -> Json:
    """Envoy's listener for a world: mutual TLS and plain text on one port, as our control plane writes PERMISSIVE."""
    template = envoy.http_listener(name, [{"name": "all", "domains": ["*"], "routes": [_ANSWER]}])
    network_filter = template["filter_chains"][0]["filters"][0]
    manager = network_filter["typed_config"]
    del manager["internal_address_config"]  # Istio sets none: nobody's `x-envoy-` orders are obeyed
    rbac = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
    filters = [{"name": "envoy.filters.http.rbac", "typed_config": {"@type": rbac, **one}} for one in world.filters]
    manager.update(world.normalization, use_remote_address=False, http_filters=[*filters, *manager["http_filters"]])
    manager["http_protocol_options"] = {"accept_http_10": True}  # else it answers 426 before it decides anything
    tls = {"name": "tls", "typed_config": _tls(authority, server)}
    inspector = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
    return {
        "name": name,
        "listener_filters": [{"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": inspector}}],
        "filter_chains": [
            {"filter_chain_match": {"transport_protocol": "tls"}, "filters": [network_filter], "transport_socket": tls},
            {"filter_chain_match": {"transport_protocol": "raw_buffer"}, "filters": [network_filter]},
        ],
    }


_ANSWER: Json = {
    "match": {"prefix": "/"},
    "direct_response": {"status": 200},
    "response_headers_to_add": [
        {"header": {"key": "x-path", "value": "%REQ(:PATH)%"}},
        {"header": {"key": "x-authority", "value": "%REQ(:AUTHORITY)%"}},
    ],
}


def _tls(authority: Authority, server: Leaf) -> Json:
    show = {
        "certificate_chain": {"inline_string": server.chain.decode()},
        "private_key": {"inline_string": server.key.decode()},
    }
    common = {"tls_certificates": [show], "validation_context": {"trusted_ca": {"inline_string": authority.root.decode()}}}
    return {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": common,
    }


@contextmanager
def theirs(listeners: list[Json], folder: Path) -> Iterator[dict[str, int]]:
    """Envoy with Istio's settings; the port of each listener by its name."""
    layer = {"name": "istio", "static_layer": {"envoy.reloadable_features.http_reject_path_with_fragment": False}}
    with envoy.running(listeners, folder, runtime={"layers": [layer]}) as ports:
        yield ports


class Line:
    """One caller's connection to one listener of Envoy, made anew whenever Envoy closes it.

    Requests wait for the answer to the one before: Envoy 1.40 closes a connection on which several come at once.
    """

    def __init__(self, port: int, caller: Caller, authority: Authority) -> None:
        self._port = port
        self._caller = caller
        self._context = authority.client_context(caller.leaf) if caller.leaf else None
        self._connect()

    def close(self) -> None:
        """Nobody asks any more."""
        self._reader.close()
        self._connection.close()

    def ask(self, request: bytes) -> Seen:
        """What Envoy says; status 0: it closed without a word."""
        found = self._asked(request)
        if found is None:  # it had closed before: the request is the first one on a new connection now
            self._again()
            found = self._asked(request)
        if found is None or found.last:
            self._again()
        return found.seen if found else Seen(0)

    def _again(self) -> None:
        self.close()
        self._connect()

    def _connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port), 10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_hostname=self._caller.server_name or None)
        self._connection, self._reader = connection, connection.makefile("rb")
        ours, self.local = (f"{host}:{port}" for host, port in (connection.getsockname(), connection.getpeername()))
        self.peer = Peer(self._caller.identity, ours, "", self._caller.server_name)

    def _asked(self, request: bytes) -> _Answered | None:
        try:
            self._connection.sendall(request)
            head = _head(self._reader)
            if head is None:
                return None
            status, headers = head
            if not request.startswith((b"HEAD ", b"HEAD\t")):
                self._reader.read(int(headers.get("content-length", "0")))
        except (ConnectionError, ssl.SSLError):
            return None
        place = (headers.get("x-path", ""), headers.get("x-authority", "")) if status == 200 else ()
        return _Answered(Seen(status, *place), headers.get("connection") == "close" or _has_body(request))


def _has_body(request: bytes) -> bool:
    """Whether the connection may hold a rest that the server does not take for a body."""
    return not request.endswith(b"\r\n\r\n") or request.endswith(b"0\r\n\r\n")


class _Answered(NamedTuple):
    seen: Seen
    last: bool


def _head(reader: Any) -> tuple[int, Mapping[str, str]] | None:
    lines = []
    while (line := reader.readline()) not in (b"\r\n", b""):
        lines.append(line.decode("latin-1").rstrip("\r\n"))
    if not lines:
        return None
    pairs = (line.partition(":") for line in lines[1:])
    return int(lines[0].split()[1]), {name.lower(): value.strip(" \t") for name, _, value in pairs}


def decoded(written: Json) -> InboundPort:
    """The port that our library makes of the same listener."""
    kind = messages.message("envoy.config.listener.v3.Listener")
    body = json_format.ParseDict(written, kind(), descriptor_pool=messages._pool)
    found = decode(Kind.LISTENER, body.SerializeToString())
    assert isinstance(found, InboundListener)
    return port_of(found)


class _Catching(MeshProtocol):
    """Reads bytes as our server does, and hands nobody the scope but us."""

    caught: Scope | None = None

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.caught, self.cycle = self.scope, None  # type: ignore[assignment]


class _Socket(asyncio.Transport):
    """A connection without a network."""

    def __init__(self, peer: Peer) -> None:
        super().__init__({"peername": _pair(peer.address), "sockname": ("127.0.0.1", 80)})
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """What the server says by itself is a refusal."""

    def close(self) -> None:
        """The server has refused the bytes."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it has."""
        return self.closed


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


class _Mesh(LocalMesh):
    withdrawn = False


class Ours:
    """Our engine. Needs a running event loop, as uvicorn's protocol does."""

    def __init__(self) -> None:
        self._config = Config(app=lambda: None, log_level="critical")
        self._config.load()
        self._kind = _Catching.serving(_Mesh())  # type: ignore[arg-type]

    def answer(self, port: InboundPort, request: bytes, peer: Peer, local: str) -> Seen:
        """What becomes of a request."""
        scope = self._read(request, peer)
        if scope is None:
            return Seen(400)
        asked = request_of(scope)
        found = admit_sync(port, Visit(asked, peer, local, peer.server_name))
        if isinstance(found, Denied):
            return Seen(found.status)
        given = request_of(admitted(scope, asked, found.request, None, ""))
        return Seen(200, found.request.path, given.authority)

    def _read(self, request: bytes, peer: Peer) -> Scope | None:
        protocol = self._kind(self._config, ServerState(), {})
        protocol._begin(_Socket(peer), peer)
        protocol.data_received(request)
        caught: Scope | None = protocol.caught  # type: ignore[attr-defined]
        return caught


def callers(authority: Authority, identities: Iterable[str]) -> list[Caller]:
    """Nobody, and holders of certificates, one of which names a server."""
    known = [Caller(authority.issue(uri=identity)) for identity in identities]
    return [Caller(), *known, Caller(known[0].leaf, "reviews")]
