"""Un-modified programs that use httpx or httpx2."""

from collections.abc import Iterator
from types import ModuleType

import httpx
import httpx2
import pytest

from meshlib_httpx import integration
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.upstream import Upstream


@pytest.fixture(params=[httpx, httpx2], ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def mesh(library: ModuleType, upstream: Upstream) -> Iterator[LocalMesh]:
    made = LocalMesh()
    made.know(destination("reviews:9080", {"v1": [endpoint(upstream.port)]}))
    integration.httpx(library, made)  # type: ignore[arg-type]  # what it needs of a Mesh
    yield made
    integration.remove(library)
    made.client().close()


def test_module_functions(library: ModuleType, mesh: LocalMesh) -> None:
    """`httpx.get` goes through the mesh."""
    assert library.get("http://reviews:9080/who").text == "v1"
    assert len(mesh.events) == 1


async def test_clients(library: ModuleType, mesh: LocalMesh) -> None:
    """Clients of both kinds, also with a transport of the ordinary class."""
    with library.Client() as client, library.Client(transport=library.HTTPTransport(retries=1)) as explicit:
        assert client.get("http://reviews:9080/who").text == explicit.get("http://reviews:9080/who").text == "v1"
    async with library.AsyncClient() as client:
        assert (await client.get("http://reviews:9080/who")).text == "v1"
    assert len(mesh.events) == 3


def test_others_go_the_ordinary_way(library: ModuleType, mesh: LocalMesh, upstream: Upstream) -> None:
    """An IP address is no mesh host."""
    assert library.get(f"http://127.0.0.1:{upstream.port}/who").text == "v1"
    assert mesh.events == []


def test_users_own_transport_is_respected(library: ModuleType, mesh: LocalMesh) -> None:
    """A subclass, a mock: somebody chose another way."""

    class Own(library.HTTPTransport):  # type: ignore[misc, name-defined]  # the library is a parameter
        def handle_request(self, request: object) -> object:
            return library.Response(299)

    with library.Client(transport=Own()) as client:
        assert client.get("http://reviews:9080/who").status_code == 299
    mock = library.MockTransport(lambda request: library.Response(298))
    with library.Client(transport=mock) as client:
        assert client.get("http://reviews:9080/who").status_code == 298


def test_proxies_are_respected(library: ModuleType, mesh: LocalMesh, upstream: Upstream) -> None:
    """A configured proxy gets the request, whatever the mesh knows."""
    with library.Client(proxy=f"http://127.0.0.1:{upstream.port}") as client:
        told = client.get("http://reviews:9080/echo").json()
    assert told["target"] == "http://reviews:9080/echo"
    assert mesh.events == []


def test_patching_is_idempotent_and_can_be_undone(library: ModuleType, mesh: LocalMesh) -> None:
    """Twice is once, and afterwards nothing is left."""
    integration.httpx(library, mesh)  # type: ignore[arg-type]  # what it needs of a Mesh
    library.get("http://reviews:9080/who")
    assert len(mesh.events) == 1
    integration.remove(library)
    integration.remove(library)
    with pytest.raises(library.ConnectError):
        library.get("http://reviews.invalid:9080/who")
    assert len(mesh.events) == 1
    assert not hasattr(library.HTTPTransport.handle_request, "__wrapped__")
