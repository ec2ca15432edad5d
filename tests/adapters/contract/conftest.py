from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from tests.support.callers import Caller, callers
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.pki import Authority, spiffe
from tests.support.upstream import Upstream

REVIEWS = "http://reviews:9080"


@dataclass
class Scene:
    """A client on a mesh, and one instance of reviews behind mutual TLS."""

    caller: Caller
    mesh: LocalMesh
    upstream: Upstream
    authority: Authority

    def configure(self, **options: object) -> None:
        """Say anew where requests to reviews go; by default to the one instance."""
        given = {"endpoints": {"v1": [endpoint(self.upstream.port, tls=True)]}, "sans": [spiffe("reviews")], **options}
        self.mesh.know(destination("reviews:9080", **given))  # type: ignore[arg-type]

    @property
    def flags(self) -> list[str]:
        """The flags of the events told so far."""
        return [event.flags for event in self.mesh.events]


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def upstream(authority: Authority) -> Iterator[Upstream]:
    with Upstream("v1", authority.server_context(authority.issue("reviews"))) as server:
        yield server


@pytest.fixture(params=callers(), ids=lambda caller: caller.name.replace(" ", "-"))
async def scene(request: pytest.FixtureRequest, authority: Authority, upstream: Upstream) -> AsyncIterator[Scene]:
    mesh = LocalMesh(authority)
    caller: Caller = request.param
    caller.open(mesh)
    scene = Scene(caller, mesh, upstream, authority)
    scene.configure()
    yield scene
    await caller.close()
    mesh.client().close()
    mesh.async_client().close()
