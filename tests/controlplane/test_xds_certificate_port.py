"""The port for clients that prove themselves by certificate: grpcio's own xDS client can send no token."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshlib.config.messages import message, type_url
from meshlib.identity.csr import new_request
from meshlib_control.ca import open_authority
from meshlib_control.current import Current, read_current
from meshlib_control.errors import CannotStart
from meshlib_control.serve import ControlPlane
from tests.support.control import asking, options, running

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
CLUSTERS = type_url("envoy.config.cluster.v3.Cluster")
CLIENT = "spiffe://cluster.local/ns/default/sa/client"


def proof(plane: ControlPlane, spiffe_id: str = CLIENT, *, folder: Path | None = None) -> Any:
    """Channel credentials with a certificate, of the control plane's root or of the root in another folder."""
    authority = open_authority(folder or plane.options.data, datetime.now(UTC))
    request = new_request()
    leaf = authority.issue(request.pem, spiffe_id, timedelta(hours=1), datetime.now(UTC))[0]
    return grpc.ssl_channel_credentials(root(plane), request.key_pem, leaf.encode())


def root(plane: ControlPlane) -> bytes:
    return Path(plane.current.root_cert).read_bytes()


async def asked(address: str, credentials: Any, metadata: Any = ()) -> Any:
    """The first response of a stream."""
    async with grpc.aio.secure_channel(address, credentials) as channel:
        call = channel.stream_stream(ADS)(metadata=metadata)
        request = message("envoy.service.discovery.v3.DiscoveryRequest")(type_url=CLUSTERS)
        request.node.id = "grpc~127.0.0.1~client-x.default~default.svc.cluster.local"
        request.node.user_agent_name = "gRPC C-core linux Python"
        await call.write(request.SerializeToString())
        raw = await asyncio.wait_for(call.read(), 10)
        return message("envoy.service.discovery.v3.DiscoveryResponse").FromString(raw)


async def test_a_certificate_of_our_root_is_a_credential(tmp_path: Path) -> None:
    """Its SPIFFE id says who is calling; no token is sent."""
    async with running(tmp_path) as plane:
        response = await asked(plane.current.xds_mtls, proof(plane))
    assert response.type_url == CLUSTERS


async def test_whoever_shows_no_certificate_gets_no_connection(tmp_path: Path) -> None:
    """Not even with a token: that is what the other port is for."""
    async with running(tmp_path) as plane, asking(plane) as api:
        token = (await api.post("/v1/tokens", json={"serviceAccount": "client"})).json()["token"]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(
                plane.current.xds_mtls,
                grpc.ssl_channel_credentials(root(plane)),
                metadata=(("authorization", f"Bearer {token}"),),
            )
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_of_another_root_opens_nothing(tmp_path: Path) -> None:
    """The handshake fails."""
    async with running(tmp_path) as plane:
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(plane.current.xds_mtls, proof(plane, folder=foreign))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_that_names_no_service_account_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Right root, wrong name."""
    async with running(tmp_path) as plane:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(plane.current.xds_mtls, proof(plane, "spiffe://elsewhere/ns/default/sa/client"))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "elsewhere" in str(refused.value.details())


async def test_the_first_port_does_not_look_at_certificates(tmp_path: Path) -> None:
    """grpcio's server either demands them or ignores them: tokens there, certificates here."""
    async with running(tmp_path) as plane:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(plane.current.xds, proof(plane))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_node_of_another_namespace_is_refused_here_too(tmp_path: Path) -> None:
    """The certificate's namespace counts, not the node's words."""
    async with running(tmp_path) as plane:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked(plane.current.xds_mtls, proof(plane, "spiffe://cluster.local/ns/shop/sa/client"))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_port_after_the_first_one_is_taken_unless_told_otherwise(tmp_path: Path) -> None:
    """Clients' bootstraps name a port, so it must be the same after a restart."""
    port = two_free_ports()
    async with running(tmp_path, xds_address=f"127.0.0.1:{port}") as plane:
        assert plane.current.xds_mtls == f"127.0.0.1:{port + 1}"
        assert read_current(tmp_path / "home") == plane.current


async def test_a_neighbour_on_that_port_keeps_nobody_from_starting(tmp_path: Path) -> None:
    """Nobody asked for it; a warning says how to have it elsewhere."""
    port = two_free_ports()
    with socket.socket() as neighbour:
        neighbour.bind(("127.0.0.1", port + 1))
        neighbour.listen()
        async with running(tmp_path, xds_address=f"127.0.0.1:{port}") as plane:
            assert plane.current.xds_mtls == ""


async def test_a_port_that_was_asked_for_and_is_taken_stops_the_start(tmp_path: Path) -> None:
    """With the option that changes it."""
    with socket.socket() as neighbour:
        neighbour.bind(("127.0.0.1", 0))
        neighbour.listen()
        taken = f"127.0.0.1:{neighbour.getsockname()[1]}"
        with pytest.raises(CannotStart, match="is taken") as refused:
            await ControlPlane(options(tmp_path, xds_mtls_address=taken)).start()
    assert "--xds-mtls-address" in refused.value.advice


def test_an_older_current_json_names_no_such_port(tmp_path: Path) -> None:
    """A command of this release finds a control plane of the one before."""
    (tmp_path / "current.json").write_text('{"api": "a", "token_file": "t", "root_cert": "r", "xds": "x"}')
    assert read_current(tmp_path) == Current("a", "t", "r", "x", "")


def two_free_ports() -> int:
    """A port that is free, like the one after it."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two free ports side by side")
