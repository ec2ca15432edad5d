"""A root is replaced in a running control plane: over real gRPC and TLS, for clients of every age."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from meshlib.config.messages import message, type_url
from meshlib.identity.csr import new_request
from meshlib.runtime.trust import roots_of
from meshlib_control import looking
from meshlib_control.ca import open_authority
from meshlib_control.serve import ControlPlane
from tests.support.control import asking, running

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
CSR = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
SDS = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"
CLUSTERS = type_url("envoy.config.cluster.v3.Cluster")
CLIENT = "spiffe://cluster.local/ns/default/sa/client"
REQUEST, RESPONSE = (message(f"envoy.service.discovery.v3.Discovery{kind}") for kind in ("Request", "Response"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks for what is due twenty times a second."""
    monkeypatch.setattr(looking, "PERIOD", 0.05)


class Running:
    """A control plane, its API, and clients of it that know only what they are given."""

    def __init__(self, plane: ControlPlane, api: httpx.AsyncClient, token: str) -> None:
        self.plane = plane
        self.api = api
        self._bearer = (("authorization", f"Bearer {token}"),)

    @property
    def root_file(self) -> bytes:
        """As somebody would copy it now."""
        return Path(self.plane.current.root_cert).read_bytes()

    async def rotate(self, *, hurry: bool = False) -> str:
        answer = await self.api.post("/v1/ca/rotate", json={"hurry": hurry})
        return str(answer.raise_for_status().json()["phase"])

    async def status(self) -> Any:
        return (await self.api.get("/v1/ca")).json()

    async def until(self, phase: str) -> None:
        async with asyncio.timeout(10):
            while (await self.status())["phase"] != phase:  # noqa: ASYNC110  another task's doing, asked for over HTTP
                await asyncio.sleep(0.02)

    async def ask(self, method: str, question: Any, roots: bytes, *, bearer: bool = True) -> Any:
        credentials = grpc.ssl_channel_credentials(roots)
        async with grpc.aio.secure_channel(self.plane.current.xds, credentials) as channel:
            call = channel.unary_unary(method)
            return await call(question.SerializeToString(), metadata=self._bearer if bearer else (), timeout=10)

    async def certificate(self, roots: bytes, *, seconds: int = 3600, instance: str = "") -> tuple[Any, bytes]:
        """A client's credentials for the other port, and the roots that came with its certificate."""
        request = new_request()
        question = message("istio.v1.auth.IstioCertificateRequest")(csr=request.pem, validity_duration=seconds)
        question.metadata.fields["INSTANCE"].string_value = instance
        answer = message("istio.v1.auth.IstioCertificateResponse").FromString(await self.ask(CSR, question, roots))
        *chain, trusted = (one.encode() for one in answer.cert_chain)
        return grpc.ssl_channel_credentials(roots, request.key_pem, b"".join(chain)), trusted

    async def secret(self, roots: bytes, name: str = "ROOTCA", held: str = "", instance: str = "", bearer: bool = True) -> Any:
        question = REQUEST(resource_names=[name], version_info=held, node={"id": instance})
        return RESPONSE.FromString(await self.ask(SDS, question, roots, bearer=bearer))

    @asynccontextmanager
    async def stream(self, credentials: Any, name: str = "client-x") -> AsyncIterator[Any]:
        """A stream of grpcio's kind on the port for certificates."""
        async with grpc.aio.secure_channel(self.plane.current.xds_mtls, credentials) as channel:
            call = channel.stream_stream(ADS)()
            request = REQUEST(type_url=CLUSTERS)
            request.node.id = f"grpc~127.0.0.1~{name}.default~default.svc.cluster.local"
            request.node.user_agent_name = "gRPC C-core linux Python"
            await call.write(request.SerializeToString())
            assert await asyncio.wait_for(call.read(), 10)
            yield call
            call.cancel()

    async def accepts(self, credentials: Any) -> bool:
        """Whether both sides of a handshake on the port for certificates accept each other."""
        try:
            async with self.stream(credentials, "somebody"):
                return True
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE


@asynccontextmanager
async def mesh(folder: Path) -> AsyncIterator[Running]:
    async with running(folder) as plane, asking(plane) as api:
        token = (await api.post("/v1/tokens", json={"serviceAccount": "client"})).json()["token"]
        yield Running(plane, api, token)


async def test_nobody_is_connected_so_nobody_is_waited_for(tmp_path: Path) -> None:
    """No certificate was given either: all steps are taken by themselves."""
    async with mesh(tmp_path) as found:
        (before,) = (await found.status())["roots"]
        await found.rotate()
        await found.until("steady")
        (after,) = (await found.status())["roots"]
    assert before["signs"] is after["signs"] is True
    assert before["fingerprint"] != after["fingerprint"]


async def test_clients_with_an_old_root_file_and_with_a_new_one_get_in_at_any_time(tmp_path: Path) -> None:
    """At the first port; also when the old root is retired: a file is copied once and then forgotten."""
    async with mesh(tmp_path) as found:
        await found.certificate(found.root_file, seconds=60)
        files = [found.root_file]
        await found.rotate()
        await found.until("retiring")
        for phase in ("retiring", "steady"):
            assert (await found.status())["phase"] == phase
            files.append(found.root_file)
            for roots in files:
                await found.certificate(roots, seconds=60)
            await found.rotate(hurry=True)


async def test_a_certificate_of_the_old_root_counts_until_that_is_retired(tmp_path: Path) -> None:
    """At the port that asks for certificates; the new root's count from the switch on."""
    async with mesh(tmp_path) as found:
        old, _ = await found.certificate(found.root_file)
        assert await found.accepts(old)
        async with found.stream(old):  # somebody who is not ready: nothing happens by itself
            await found.rotate()
            assert await found.rotate(hurry=True) == "retiring"
            new, trusted = await found.certificate(found.root_file)
            assert trusted == found.root_file
            assert [await found.accepts(one) for one in (old, new)] == [True, True]
            assert await found.rotate(hurry=True) == "steady"
        after, _ = await found.certificate(found.root_file)
        assert [await found.accepts(one) for one in (old, new, after)] == [False, True, True]


async def test_a_client_with_files_is_waited_for_until_its_keeper_has_asked(tmp_path: Path) -> None:
    """It says what it has; being asked for is not having."""
    async with mesh(tmp_path) as found:
        old = found.root_file
        credentials, _ = await found.certificate(old, instance="client-x")
        async with found.stream(credentials):
            await found.rotate()
            given = await found.secret(old, instance="client-x")
            assert roots_of(given.resources[0].value)[0].encode() == found.root_file != old
            await asyncio.sleep(0.3)
            assert (await found.status())["waitingFor"] == ["client-x"]
            await found.secret(old, held=given.version_info, instance="client-x")
            await found.until("retiring")


async def test_a_client_that_renews_meanwhile_needs_not_ask(tmp_path: Path) -> None:
    """A certificate comes with the roots."""
    async with mesh(tmp_path) as found:
        credentials, _ = await found.certificate(found.root_file, instance="client-x")
        async with found.stream(credentials):
            await found.rotate()
            await found.certificate(found.root_file, instance="client-x")
            await found.until("retiring")


async def test_a_control_plane_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """What it told others before, it knows after."""
    async with mesh(tmp_path) as found:
        credentials, _ = await found.certificate(found.root_file)
        async with found.stream(credentials):
            await found.rotate()
            before = await found.status()
    async with mesh(tmp_path) as found:
        await found.until("retiring")
        after = await found.status()
        assert [one["fingerprint"] for one in after["roots"]] == [one["fingerprint"] for one in reversed(before["roots"])]
    assert open_authority(tmp_path / "data", datetime.now(UTC)).roots_pem == found.root_file


async def test_the_old_root_is_kept_as_long_as_the_longest_certificate_that_it_gave(tmp_path: Path) -> None:
    """An hour here, also if others were shorter."""
    async with mesh(tmp_path) as found:
        for seconds in (60, 3600, 5):
            await found.certificate(found.root_file, seconds=seconds)
        await found.rotate()
        await found.until("retiring")
        until = datetime.fromisoformat((await found.status())["oldRootUntil"])
    assert timedelta(minutes=59) < until - datetime.now(UTC) <= timedelta(hours=1, seconds=2)


async def test_roots_are_told_to_members_only_and_nothing_else_is(tmp_path: Path) -> None:
    """A private key is no resource here."""
    async with mesh(tmp_path) as found:
        with pytest.raises(grpc.aio.AioRpcError) as stranger:
            await found.secret(found.root_file, bearer=False)
        with pytest.raises(grpc.aio.AioRpcError) as curious:
            await found.secret(found.root_file, name="default")
    assert stranger.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert curious.value.code() is grpc.StatusCode.NOT_FOUND


async def test_beginning_twice_is_refused(tmp_path: Path) -> None:
    """With how far it is."""
    async with mesh(tmp_path) as found:
        credentials, _ = await found.certificate(found.root_file)
        async with found.stream(credentials):
            await found.rotate()
            answer = await found.api.post("/v1/ca/rotate", json={})
    assert answer.status_code == 400
    assert "already: distributing" in answer.json()["error"]


async def test_without_the_admin_token_nobody_replaces_anything(tmp_path: Path) -> None:
    """As all of the API."""
    async with running(tmp_path) as plane, asking(plane, token="") as api:
        assert (await api.post("/v1/ca/rotate", json={})).status_code == 401
        assert (await api.get("/v1/ca")).status_code == 401
