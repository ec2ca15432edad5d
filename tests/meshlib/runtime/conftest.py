"""A small control plane over real gRPC and TLS: it answers what it holds, and remembers what it heard."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshlib.config.decode import TYPE_URLS
from meshlib.config.messages import message, pack
from meshlib.config.subscription import Kind
from meshlib.errors import CredentialError
from meshlib.identity import assertion
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.settings import Settings
from meshlib_control.ca import CertificateAuthority, open_authority

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
CA = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
REQUEST = "envoy.service.discovery.v3.DeltaDiscoveryRequest"
RESPONSE = "envoy.service.discovery.v3.DeltaDiscoveryResponse"
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
DOWNSTREAM = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"
TOKEN = "good-token"
SPIFFE_ID = "spiffe://cluster.local/ns/default/sa/reviews"


class ClientStream:
    """One client's stream: what was sent under which version, what waits to be sent."""

    def __init__(self) -> None:
        self.node: Any = None
        self.outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.sent: dict[str, dict[str, str]] = {url: {} for url in TYPE_URLS.values()}


class ControlPlane:
    """Speaks delta ADS and signs certificates; `silent`, `refuse` and `stop` make it misbehave; it signs while `signing`."""

    def __init__(self, authority: CertificateAuthority) -> None:
        self.authority = authority
        self.port = 0
        self.silent = False
        self.signing = threading.Event()
        self.signing.set()
        self.token = TOKEN
        self.shown: list[str] = []  # each credential's kind: certificate, token
        self.requests: list[Any] = []
        self.nodes: list[Any] = []
        self.nacks: list[str] = []
        self.streams: list[ClientStream] = []
        self._resources: dict[str, dict[str, tuple[str, Any]]] = {url: {} for url in TYPE_URLS.values()}
        self._revision = 0
        self._lock = threading.RLock()
        self._heard = threading.Condition()
        self._server: grpc.Server | None = None

    def start(self) -> None:
        handlers = {
            ADS: grpc.stream_stream_rpc_method_handler(self._serve),
            CA: grpc.unary_unary_rpc_method_handler(self._sign),
        }
        shown = self.authority.server_certificate(["localhost", "127.0.0.1"], datetime.now(UTC))
        credentials = grpc.ssl_server_credentials([(shown.key, shown.chain)])
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((_Handlers(handlers),))
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        self._server.start()

    def stop(self) -> None:
        """As `kill`: all streams break."""
        if self._server is not None:
            stopped = self._server.stop(0)
            for stream in self.streams:
                stream.outgoing.put(None)
            stopped.wait(5)
        self._server = None
        self.streams.clear()

    def put(self, kind: Kind, value: Any) -> None:
        with self._lock:
            self._revision += 1
            name = value.cluster_name if kind is Kind.ASSIGNMENT else value.name
            self._resources[TYPE_URLS[kind]][name] = (str(self._revision), value)
            self._push(TYPE_URLS[kind])

    def drop(self, kind: Kind, name: str) -> None:
        with self._lock:
            self._resources[TYPE_URLS[kind]].pop(name, None)
            self._push(TYPE_URLS[kind])

    def put_destination(self, authority: str, port: int, *, cluster: str = "c") -> None:
        """A host with one cluster and one endpoint."""
        self.put(Kind.ASSIGNMENT, assignment(cluster, port))
        self.put(Kind.CLUSTER, message("envoy.config.cluster.v3.Cluster")(name=cluster, type="EDS", lb_policy="LEAST_REQUEST"))
        route = {"match": {"prefix": "/"}, "route": {"cluster": cluster}}
        host = {"name": "v", "domains": ["*"], "routes": [route]}
        routes = message("envoy.config.route.v3.RouteConfiguration")(name=f"routes {authority}", virtual_hosts=[host])
        self.put(Kind.ROUTE, routes)
        manager = message(HCM)(rds={"route_config_name": f"routes {authority}"})
        self.put(
            Kind.LISTENER,
            message("envoy.config.listener.v3.Listener")(name=authority, api_listener={"api_listener": pack(manager)}),
        )

    def put_strict(self, name: str) -> None:
        """An inbound listener that demands mutual TLS."""
        self.put(Kind.LISTENER, strict(name))

    def push_roots(self, pem: str) -> None:
        """Tell every stream whom to trust."""
        secret = message(SECRET)(name="ROOTCA", validation_context={"trusted_ca": {"inline_string": pem}})
        response = message(RESPONSE)(type_url=pack(secret).type_url, nonce="roots")
        response.resources.add(name="ROOTCA", version="1").resource.CopyFrom(pack(secret))
        for stream in self.streams:
            stream.outgoing.put(response.SerializeToString())

    def listed(self) -> list[list[int]]:
        """The target ports that each node announced, in the order of their streams."""
        return [[int(entry["target_port"]) for entry in node.metadata["MESHLIB_SERVICES"]] for node in self.nodes]

    def wait_for(self, condition: Callable[[], bool], timeout: float = 5.0) -> bool:
        """Until something heard makes the condition true."""
        with self._heard:
            return self._heard.wait_for(condition, timeout)

    def _serve(self, incoming: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._authenticate(context)
        stream = ClientStream()
        self.streams.append(stream)
        context.add_callback(lambda: stream.outgoing.put(None))
        threading.Thread(target=self._listen, args=(stream, incoming), daemon=True).start()
        yield from iter(stream.outgoing.get, None)

    def _authenticate(self, context: grpc.ServicerContext) -> None:
        bearer = str(dict(context.invocation_metadata()).get("authorization", "")).removeprefix("Bearer ")
        if assertion.is_assertion(bearer):
            self.shown.append("certificate")
            try:
                assertion.verify(bearer, self.authority.roots_pem, ("cluster.local",), time.time())
            except CredentialError as error:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            return
        self.shown.append("token")
        if bearer != self.token:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired")

    def _listen(self, stream: ClientStream, incoming: Iterator[bytes]) -> None:
        try:
            for raw in incoming:
                with self._lock, self._heard:
                    self._hear(stream, message(REQUEST).FromString(raw))
                    self._heard.notify_all()
        except Exception:  # gRPC raises a bare Exception where the client went away
            return

    def _hear(self, stream: ClientStream, request: Any) -> None:
        if request.type_url not in stream.sent:  # the roots, which are pushed when a test says so
            return
        self.requests.append(request)
        if request.HasField("node"):
            stream.node = request.node
            self.nodes.append(request.node)
        if request.HasField("error_detail"):
            self.nacks.append(request.error_detail.message)
        sent = stream.sent[request.type_url]
        for name in request.resource_names_unsubscribe:
            sent.pop(name, None)
        for name in request.resource_names_subscribe:
            sent[name] = request.initial_resource_versions.get(name, "")
        self._answer(stream, request.type_url)

    def _push(self, url: str) -> None:
        for stream in self.streams:
            self._answer(stream, url)

    def _answer(self, stream: ClientStream, url: str) -> None:
        known, sent = self._resources[url], stream.sent[url]
        fresh = [name for name, version in sent.items() if name in known and known[name][0] != version]
        removed = [name for name, version in sent.items() if name not in known and version != "gone"]
        if self.silent or not (fresh or removed):
            return
        response = message(RESPONSE)(type_url=url, nonce=str(len(self.requests)), removed_resources=removed)
        for name in fresh:
            response.resources.add(name=name, version=known[name][0]).resource.CopyFrom(pack(known[name][1]))
        sent.update({name: known[name][0] for name in fresh} | dict.fromkeys(removed, "gone"))
        stream.outgoing.put(response.SerializeToString())

    def _sign(self, raw: bytes, context: grpc.ServicerContext) -> bytes:
        self._authenticate(context)
        self.signing.wait(10)
        request = message("istio.v1.auth.IstioCertificateRequest").FromString(raw)
        lifetime = timedelta(seconds=request.validity_duration)
        chain = self.authority.issue(request.csr, SPIFFE_ID, lifetime, datetime.now(UTC))
        return bytes(message("istio.v1.auth.IstioCertificateResponse")(cert_chain=chain).SerializeToString())


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, details: Any) -> Any:
        return self._handlers.get(details.method)


def strict(name: str) -> Any:
    context = message(DOWNSTREAM)(require_client_certificate={"value": True})
    chain = {"transport_socket": {"name": "tls", "typed_config": pack(context)}}
    return message("envoy.config.listener.v3.Listener")(name=name, filter_chains=[chain])


def assignment(name: str, *ports: int) -> Any:
    endpoints = [{"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": port}}}} for port in ports]
    return message("envoy.config.endpoint.v3.ClusterLoadAssignment")(
        cluster_name=name, endpoints=[{"lb_endpoints": endpoints}]
    )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return open_authority(tmp_path_factory.mktemp("ca"), datetime.now(UTC))


@pytest.fixture
def control_plane(authority: CertificateAuthority) -> Iterator[ControlPlane]:
    plane = ControlPlane(authority)
    plane.start()
    yield plane
    plane.stop()


@pytest.fixture
def settings(control_plane: ControlPlane, tmp_path: Path) -> Settings:
    root = tmp_path / "root-cert.pem"
    root.write_bytes(control_plane.authority.roots_pem)
    return Settings(
        service="reviews",
        port=9080,
        labels={"app": "reviews", "version": "v1"},
        instance="reviews-v1-0",
        control_plane=f"127.0.0.1:{control_plane.port}",
        token=TOKEN,
        root_cert=str(root),
        home=str(tmp_path / "home"),
    )


@pytest.fixture
def make_mesh(settings: Settings) -> Iterator[Callable[..., Mesh]]:
    """Meshes of the fixture's settings with changes, closed in the end."""
    made: list[Mesh] = []

    def make(**changes: Any) -> Mesh:
        made.append(Mesh(replace(settings, **changes)))
        return made[-1]

    yield make
    for mesh in made:
        mesh.close()


@pytest.fixture
def mesh(make_mesh: Callable[..., Mesh]) -> Mesh:
    return make_mesh()
