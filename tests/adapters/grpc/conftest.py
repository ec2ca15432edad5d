from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from tests.support.grpc_callers import AioCaller, Caller, SyncCaller
from tests.support.grpc_echo import Echo
from tests.support.mesh import LocalMesh, destination, endpoint
from tests.support.pki import Authority, spiffe


@dataclass
class Scene:
    """A client on a mesh, and one instance of reviews behind mutual TLS."""

    caller: Caller
    mesh: LocalMesh
    echo: Echo
    authority: Authority

    def configure(self, **options: object) -> None:
        """Say anew where calls to reviews go; by default to the one instance."""
        given = {"endpoints": {"v1": [endpoint(self.echo.port, tls=True)]}, "sans": [spiffe("reviews")], **options}
        self.mesh.know(destination("reviews:9080", **given))  # type: ignore[arg-type]

    async def flags(self, count: int) -> list[str]:
        """The flags of the events told so far: the blocking API tells them from gRPC's own thread, a moment later."""
        give_up = time.monotonic() + 5
        while len(self.mesh.events) < count and time.monotonic() < give_up:  # noqa: ASYNC110 (of another thread)
            await asyncio.sleep(0.01)
        return [event.flags for event in self.mesh.events]


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def echo(authority: Authority) -> Iterator[Echo]:
    """An instance of reviews."""
    with Echo("v1", LocalMesh(authority, "reviews")) as server:
        yield server


@pytest.fixture(params=[SyncCaller, AioCaller], ids=lambda kind: kind.api)
async def scene(request: pytest.FixtureRequest, authority: Authority, echo: Echo) -> AsyncIterator[Scene]:
    caller = request.param()
    mesh = LocalMesh(authority)
    caller.open(mesh)
    made = Scene(caller, mesh, echo, authority)
    made.configure()
    yield made
    await caller.close()
