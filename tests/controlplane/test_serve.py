"""The control plane as a whole: starting, stopping, coming back, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from meshlib.config.messages import message, type_url
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.settings import Settings
from meshlib_control.current import read_current
from meshlib_control.errors import CannotStart
from meshlib_control.serve import ControlPlane
from tests.support.control import REVIEWS_V1, SUBSETS, TYPO, asking, options, running

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
ROUTES = type_url("envoy.config.route.v3.RouteConfiguration")
REVIEWS_ROUTES = "outbound|9080||reviews.default.svc.cluster.local"


def root_of(plane: ControlPlane) -> bytes:
    return Path(plane.current.root_cert).read_bytes()


class Service:
    """A service's xDS stream: registers reviews:9080 and follows the routes to it."""

    def __init__(self, plane: ControlPlane, token: str, subscribe: tuple[str, ...] = (REVIEWS_ROUTES,)) -> None:
        self._channel = grpc.aio.secure_channel(plane.current.xds, grpc.ssl_channel_credentials(root_of(plane)))
        method = self._channel.stream_stream(
            ADS,
            request_serializer=lambda value: value.SerializeToString(),
            response_deserializer=message("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString,
        )
        self.call = method(metadata=(("authorization", f"Bearer {token}"),))
        self._subscribe = subscribe

    async def __aenter__(self) -> Service:
        request = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
            type_url=ROUTES, resource_names_subscribe=self._subscribe
        )
        request.node.id = "library~127.0.0.1~reviews-v1-x.default~default.svc.cluster.local"
        request.node.metadata.update(
            {"MESHLIB_SERVICES": [{"service": "reviews", "port": 9080, "target_port": 39080, "protocol": "http"}]}
        )
        await self.call.write(request)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        await self._channel.close()

    async def routes(self) -> Any:
        """The next RouteConfiguration that is pushed; earlier words about its absence are passed over."""
        while True:
            response = await asyncio.wait_for(self.call.read(), 10)
            await self.call.write(
                message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(type_url=ROUTES, response_nonce=response.nonce)
            )
            for resource in response.resources:
                return message("envoy.config.route.v3.RouteConfiguration").FromString(resource.resource.value)


def cluster_of(routes: Any) -> str:
    return routes.virtual_hosts[0].routes[0].route.cluster


async def join_token(api: httpx.AsyncClient) -> str:
    return (await api.post("/v1/tokens", json={"serviceAccount": "bookinfo-reviews"})).json()["token"]


async def apply(api: httpx.AsyncClient, text: str) -> None:
    (await api.post("/v1/apply", json={"documents": text})).raise_for_status()


async def test_port_zero_takes_free_ports_and_current_json_names_them(tmp_path):
    """Commands find it without being told; after the end nothing points to it."""
    async with running(tmp_path) as plane:
        current = read_current(tmp_path / "home")
        assert current == plane.current
        assert (plane.api.port, plane.xds.port) != (0, 0)
        async with asking(plane, token="") as anybody:
            assert (await anybody.get("/ready")).status_code == 200
    assert read_current(tmp_path / "home") is None


async def test_a_change_reaches_a_client_within_two_hundred_milliseconds(tmp_path):
    """The debounce is 100 ms; the median of 11 changes leaves room for the way."""
    async with running(tmp_path) as plane, asking(plane) as api, Service(plane, await join_token(api)) as service:
        await service.routes()
        taken = []
        for number in range(11):
            started = time.monotonic()
            await apply(api, REVIEWS_V1.replace("subset: v1", f"subset: v{number}"))
            routes = await service.routes()
            taken.append(time.monotonic() - started)
            assert cluster_of(routes) == f"outbound|9080|v{number}|reviews.default.svc.cluster.local"
    assert sorted(taken)[5] < 0.2


async def test_a_restart_gets_objects_root_and_services_back(tmp_path):
    """Same data folder: same root, same token, same objects; a client that reconnects is registered again."""
    async with running(tmp_path) as first, asking(first) as api:
        token = await join_token(api)
        await apply(api, f"{REVIEWS_V1}---\n{SUBSETS}")
        root = root_of(first)
    async with running(tmp_path) as second, asking(second) as api, Service(second, token) as service:
        assert root_of(second) == root
        assert cluster_of(await service.routes()) == "outbound|9080|v1|reviews.default.svc.cluster.local"
        (row,) = (await api.get("/v1/proxies")).json()["items"]
        assert (row["services"], row["serviceAccount"]) == (["reviews"], "bookinfo-reviews")


async def test_ps_shows_each_instance_until_when_its_own_certificate_is_valid(tmp_path):
    """Two processes of one account: the identity is the same, the certificates are not."""
    async with running(tmp_path) as plane, asking(plane) as api:
        common = {
            "service": "reviews",
            "control_plane": plane.current.xds,
            "root_cert": plane.current.root_cert,
            "token": await join_token(api),
            "home": str(tmp_path / "client"),
        }
        lifetimes = {"reviews-1": 1800, "reviews-2": 7200}
        meshes = [Mesh(Settings(**common, instance=name, certificate_lifetime=s)) for name, s in lifetimes.items()]
        try:
            for port, mesh in enumerate(meshes, 43210):
                mesh.serve(port, "127.0.0.1")
                assert await asyncio.to_thread(mesh.ready, 10)
            rows = (await api.get("/v1/proxies")).json()["items"]
        finally:
            for mesh in meshes:
                await asyncio.to_thread(mesh.close)
        shown = {row["name"]: row["certificateExpires"] for row in rows}
        ends = {mesh.settings.instance: datetime.fromtimestamp(mesh.certificates.expires_at, UTC) for mesh in meshes}
        assert shown == {name: end.strftime("%Y-%m-%dT%H:%M:%SZ") for name, end in ends.items()}
        assert len(set(shown.values())) == 2


async def test_a_client_that_goes_is_gone_from_ps(tmp_path):
    """The stream is the lease."""
    async with running(tmp_path) as plane, asking(plane) as api:
        async with Service(plane, await join_token(api)) as service:
            await service.routes()
            assert len((await api.get("/v1/proxies")).json()["items"]) == 1
        for _ in range(100):
            if not (await api.get("/v1/proxies")).json()["items"]:
                break
            await asyncio.sleep(0.02)
        assert (await api.get("/v1/proxies")).json()["items"] == []


async def test_a_stream_without_a_token_is_refused_with_the_way_to_one(tmp_path):
    """The xDS port asks for a credential too."""
    async with running(tmp_path) as plane:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async with Service(plane, "nonsense") as service:
                await service.routes()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "meshlib token create" in refused.value.details()


async def test_a_folder_of_yaml_is_in_force_and_followed(tmp_path):
    """What a file says reaches clients, and so does its change; what breaks keeps its last good content and is told."""
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "reviews.yaml").write_text(REVIEWS_V1)
    async with running(tmp_path, config=folder) as plane, asking(plane) as api:
        async with Service(plane, await join_token(api)) as service:
            assert "|v1|" in cluster_of(await service.routes())
            (folder / "reviews.yaml").write_text(REVIEWS_V1.replace("subset: v1", "subset: v2"))
            assert "|v2|" in cluster_of(await service.routes())
        (folder / "reviews.yaml").write_text(TYPO)
        finding = await first_problem(api)
        assert (finding["file"], finding["line"]) == ("reviews.yaml", 12)
        (item,) = (await api.get("/v1/objects")).json()["items"]
        assert item["spec"]["http"][0]["route"][0]["destination"]["subset"] == "v2"


async def first_problem(api: httpx.AsyncClient) -> Any:
    for _ in range(200):
        findings = (await api.get("/v1/analyze")).json()["findings"]
        broken = [finding for finding in findings if finding["code"] == "IST0106"]
        if broken:
            return broken[0]
        await asyncio.sleep(0.05)
    raise AssertionError("the broken file was not told within 10 s")


async def test_what_a_file_declares_only_the_file_changes(tmp_path):
    """Apply and delete say which file."""
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "reviews.yaml").write_text(REVIEWS_V1)
    async with running(tmp_path, config=folder) as plane, asking(plane) as api:
        applied = await api.post("/v1/apply", json={"documents": REVIEWS_V1})
        deleted = await api.delete("/v1/objects/VirtualService/default/reviews")
    assert (applied.status_code, deleted.status_code) == (422, 422)
    assert "reviews.yaml" in applied.json()["error"]
    assert "reviews.yaml" in deleted.json()["suggestion"]


@pytest.mark.parametrize("option", ["xds_address", "api_address"])
async def test_a_taken_port_is_named_with_its_holder_and_the_way_out(tmp_path, option):
    """Nothing is left behind: the same options work once the port is free."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = options(tmp_path, **{option: f"127.0.0.1:{port}"})
        with pytest.raises(CannotStart, match=f"port {port} of 127.0.0.1 is taken") as refused:
            await ControlPlane(settings).start()
    assert f"(pid {os.getpid()})" in refused.value.problem
    assert f"--{option.replace('_', '-')} 127.0.0.1:" in refused.value.advice
    assert not (tmp_path / "home/current.json").exists()
    plane = ControlPlane(settings)
    await plane.start()
    await plane.stop()


async def test_two_control_planes_do_not_share_a_port_or_a_folder(tmp_path):
    """gRPC would let them share a port silently; each would see half of the services."""
    async with running(tmp_path) as first:
        with pytest.raises(CannotStart, match="another control plane"):
            await ControlPlane(options(tmp_path)).start()
        with pytest.raises(CannotStart, match="is taken"):
            await ControlPlane(options(tmp_path / "b", xds_address=str(first.xds))).start()


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http", ":15012"])
def test_what_is_no_address_is_refused_with_an_example(tmp_path, address):
    """Before anything is written."""
    with pytest.raises(CannotStart, match=r"--xds-address 127\.0\.0\.1:15012"):
        ControlPlane(options(tmp_path, xds_address=address))


async def test_a_foreign_address_cannot_be_listened_on(tmp_path):
    """192.0.2.1 is nobody's (RFC 5737)."""
    with pytest.raises(CannotStart, match=r"cannot listen on 192\.0\.2\.1"):
        await ControlPlane(options(tmp_path, api_address="192.0.2.1:0")).start()


async def test_a_damaged_database_is_named_and_left_alone(tmp_path):
    """What can still be rescued is not overwritten."""
    database = tmp_path / "data/objects.db"
    database.parent.mkdir()
    database.write_bytes(b"this is no database " * 100)
    with pytest.raises(CannotStart, match=r"objects\.db"):
        await ControlPlane(options(tmp_path)).start()
    assert database.read_bytes() == b"this is no database " * 100


async def test_a_folder_that_is_a_file_is_named(tmp_path):
    """--data FILE."""
    (tmp_path / "data").write_text("")
    with pytest.raises(CannotStart, match="--data"):
        await ControlPlane(options(tmp_path)).start()


async def test_a_clock_before_the_roots_birth_stops_the_start(tmp_path):
    """Certificates from the past would be trusted by nobody."""
    async with running(tmp_path):
        pass
    with pytest.raises(CannotStart, match="set the clock"):
        await ControlPlane(options(tmp_path), lambda: datetime.now(UTC) - timedelta(hours=1)).start()


async def test_the_api_has_tls_where_others_can_connect(tmp_path):
    """All loopback addresses are served plainly; any other with the root's certificate."""
    async with running(tmp_path, api_address="0.0.0.0:0") as plane:
        root = ssl.create_default_context(cafile=plane.current.root_cert)
        url = f"https://localhost:{plane.api.port}/ready"
        async with httpx.AsyncClient(verify=root, trust_env=False) as client:
            assert (await client.get(url)).status_code == 200
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get(url.replace("https", "http"))
    assert plane.current.api.startswith("https://")


async def test_a_current_json_of_somebody_else_is_left_alone(tmp_path):
    """The one started last is the current one, and stays so when the other ends."""
    first = ControlPlane(options(tmp_path))
    await first.start()
    async with running(tmp_path, data=tmp_path / "other") as second:
        await first.stop()
        assert read_current(tmp_path / "home") == second.current


async def test_secrets_are_private(tmp_path):
    """Everything in the data folder that opens a door."""
    async with running(tmp_path):
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    assert modes["ca.json"] == modes["token-key.pem"] == modes["admin.token"] == 0o600
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
