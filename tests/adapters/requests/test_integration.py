"""Un-modified programs that use requests, and what is particular to requests."""

import io
import pickle
from collections.abc import Iterator

import pytest
import requests

from meshlib_requests import MeshAdapter, integration
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.upstream import Upstream

URL = "http://reviews:9080"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def mesh(upstream: Upstream) -> Iterator[LocalMesh]:
    made = LocalMesh()
    made.know(destination("reviews:9080", {"v1": [endpoint(upstream.port)]}))
    integration.requests(requests, made)  # type: ignore[arg-type]  # what it needs of a Mesh
    yield made
    integration.remove(requests)
    made.client().close()


def test_module_functions_and_sessions(mesh: LocalMesh) -> None:
    """`requests.get` and sessions go through the mesh."""
    assert requests.get(f"{URL}/who", timeout=(3, 3)).text == "v1"
    with requests.Session() as session:
        assert session.post(f"{URL}/echo", json={"a": 1}, timeout=3).json()["body"] == '{"a": 1}'
    assert [event.status for event in mesh.events] == [200, 200]


def test_others_go_the_ordinary_way(mesh: LocalMesh, upstream: Upstream) -> None:
    """An IP address, a proxy, an adapter of the user's own."""

    class Own(requests.adapters.HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: object, **kwargs: object) -> requests.Response:  # type: ignore[override]
            raise requests.exceptions.InvalidProxyURL("mine")

    proxy = f"http://127.0.0.1:{upstream.port}"
    assert requests.get(f"{proxy}/who", timeout=3).text == "v1"
    assert requests.get(f"{URL}/echo", proxies={"http": proxy}, timeout=3).json()["target"] == f"{URL}/echo"
    with requests.Session() as session:
        session.mount("http://", Own())
        with pytest.raises(requests.exceptions.InvalidProxyURL):
            session.get(f"{URL}/who", timeout=3)
    assert mesh.events == []


def test_patching_is_idempotent_and_can_be_undone(mesh: LocalMesh) -> None:
    """Twice is once, and afterwards nothing is left."""
    integration.requests(requests, mesh)  # type: ignore[arg-type]  # what it needs of a Mesh
    requests.get(f"{URL}/who", timeout=3)
    assert len(mesh.events) == 1
    integration.remove(requests)
    integration.remove(requests)
    assert not hasattr(requests.adapters.HTTPAdapter.send, "__wrapped__")


def test_raw_stream(mesh: LocalMesh) -> None:
    """`response.raw` is urllib3's: it can be read in any portions and closed."""
    with requests.get(f"{URL}/large?size=100000", stream=True, timeout=3) as response:
        assert response.raw.read(10) == bytes(range(10))
        assert len(response.raw.read(70_000)) == 70_000
        assert len(response.raw.read()) == 29_990
        assert response.raw.read() == b""
    assert [event.flags for event in mesh.events] == ["-"]


def test_lines_are_seen_as_they_come(mesh: LocalMesh) -> None:
    """`iter_content(None)` over a chunked response does not wait for its end."""
    with requests.get(f"{URL}/chunked?n=3&pause=0.05", stream=True, timeout=3) as response:
        assert list(response.iter_content(None)) == [b"piece 0;", b"piece 1;", b"piece 2;"]


@pytest.mark.parametrize("body", [io.BytesIO(b"file"), iter([b"fi", b"le"]), "file", {"file": ""}])
def test_bodies(mesh: LocalMesh, body: object) -> None:
    """Files, iterators, text and forms arrive."""
    told = requests.post(f"{URL}/echo", data=body, timeout=3).json()  # type: ignore[arg-type]  # that is the point
    assert told["body"].removesuffix("=") == "file"


def test_dropped_response_frees_its_connection(mesh: LocalMesh) -> None:
    """A streamed response that nobody closes is closed with its last reference."""
    response = requests.get(f"{URL}/large?size=100000000", stream=True, timeout=3)
    assert mesh.events == []
    del response
    assert [event.flags for event in mesh.events] == ["DC"]


def test_timeouts_of_every_form(mesh: LocalMesh) -> None:
    """A number, a pair, urllib3's own class; a triple is refused with advice."""
    from urllib3 import Timeout

    for timeout in (0.1, (3, 0.1), Timeout(connect=3, read=0.1)):
        with pytest.raises(requests.exceptions.ReadTimeout):
            requests.get(f"{URL}/slow?seconds=2", timeout=timeout)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"write timeout=\(connect, read\)"):
        requests.get(f"{URL}/who", timeout=(1, 2, 3))  # type: ignore[arg-type]


def test_adapter_survives_pickling() -> None:
    """Sessions are pickled to worker processes."""
    copy = pickle.loads(pickle.dumps(MeshAdapter(max_retries=3)))
    assert isinstance(copy, MeshAdapter)
    assert copy.max_retries.total == 3
