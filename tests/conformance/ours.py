"""Our side: a mesh that joined the control plane like any service, and its own transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

from meshlib.config.snapshot import Absent, Destination
from meshlib.errors import InvalidRequest, MeshError, Sighting, UpstreamError
from meshlib.facts import Request
from meshlib.outbound.hop import sanitized
from meshlib.outbound.route import choose
from meshlib.path import normalized
from meshlib.runtime import client_async
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.settings import Settings
from tests.conformance.cases import NAMESPACE, OUR_LABELS, Asked
from tests.conformance.echo import CASE, SCRIPT
from tests.conformance.seen import Endpoints, Seen
from tests.support.envoy_sidecar import Plane

PATIENCE = 30.0
GRID = 1000
"""How finely the dice are searched for a cluster."""


class LoadedDice:
    """Dice that show what the other side's dice showed, then chance."""

    def __init__(self, seed: int) -> None:
        self._told: ContextVar[list[float]] = ContextVar("dice")
        self._random = Random(seed)

    def load(self, numbers: list[float]) -> None:
        """What the current task sees next."""
        self._told.set(numbers)

    def __call__(self) -> float:
        told = self._told.get([])
        return told.pop(0) if told else self._random.random()


class Ours:
    """A mesh and its asynchronous client."""

    def __init__(self, mesh: Mesh, dice: LoadedDice) -> None:
        self.mesh = mesh
        self._dice = dice

    async def known(self, asked: Asked) -> Destination | Absent:
        """Where its requests go, as the control plane says; on a busy machine it may take a while."""
        until = time.monotonic() + PATIENCE
        while self.mesh.destination(asked.host) is None and time.monotonic() < until:
            await self.mesh.resolve_async(asked.host)
        found = self.mesh.destination(asked.host)
        assert found is not None, f"the control plane says nothing about {asked.host}"
        return found

    async def see(self, asked: Asked, case: str, theirs: Seen | None, throws: Sequence[float] = ()) -> Seen:
        """Send a request, with the dice showing what `theirs` is the outcome of; None: `throws`, then whatever comes."""
        destination = await self.known(asked)
        request = facts(asked, case)
        known = theirs is not None and isinstance(destination, Destination)
        self._dice.load(loaded(destination, request, theirs) if known else list(throws))
        seen = await self._sent(asked, request)
        return replace(seen, endpoints=_endpoints(destination, seen.cluster))

    async def _sent(self, asked: Asked, request: Request) -> Seen:
        body = None if asked.body is None else b"b" * asked.body
        try:
            response = await self.mesh.async_client().send(request, body, host=asked.host)
        except UpstreamError as error:
            return _raised(error)
        except InvalidRequest as error:
            return Seen(400, raised=True, note=f"InvalidRequest: {error}")
        except MeshError as error:
            return Seen(0, raised=True, note=repr(error))
        if response is None:
            return Seen(0, note="not in the mesh")
        body_seen, whole, note, sighting = b"", True, "", response.sighting
        try:
            async for piece in response:
                body_seen += piece
        except UpstreamError as error:
            whole, note, sighting = False, str(error), error.sighting
        headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers)
        return _seen(response.status, sighting, headers=headers, body=body_seen, whole=whole, note=note)


def _endpoints(destination: Destination | Absent, cluster: str) -> Endpoints:
    if isinstance(destination, Absent) or cluster not in destination.clusters:
        return frozenset()
    found = destination.clusters[cluster]
    assignment = destination.assignments.get(found.assignment)
    return frozenset((one.address, one.port, one.weight) for one in (assignment.endpoints if assignment else found.endpoints))


def facts(asked: Asked, case: str) -> Request:
    """The request as an adapter would hand it over."""
    headers = tuple((name.lower(), value) for name, value in asked.headers)
    return Request(asked.method, "http", asked.authority, asked.path, (*headers, (CASE, case), (SCRIPT, asked.script)))


def loaded(destination: Destination, request: Request, theirs: Seen) -> list[float]:
    """The throws that lead to the other side's cluster and faults, in the order in which `exchange` throws them."""
    request = sanitized(request) or request
    request = replace(request, path=normalized(request.path) or request.path)
    chosen = choose(destination.routes, request, lambda: 0.0)
    if chosen is None:
        return []
    route, throws = chosen.route, []
    if len(route.clusters) > 1:
        throws.append(_share(destination, request, theirs))
    if route.fault is not None and route.fault.delay is not None:
        throws.append(0.0 if "DI" in theirs.flags else _ALMOST_ONE)
    if route.fault is not None and route.fault.abort is not None:
        throws.append(0.0 if "FI" in theirs.flags else _ALMOST_ONE)
    return throws


_ALMOST_ONE = 1 - 2**-53


def _share(destination: Destination, request: Request, theirs: Seen) -> float:
    for number in range(GRID):
        chosen = choose(destination.routes, request, lambda number=number: number / GRID)
        if chosen is not None and _same_cluster(destination, chosen.cluster_name, theirs):
            return number / GRID
    return 0.5


def _same_cluster(destination: Destination, cluster: str, theirs: Seen) -> bool:
    # Envoy does not name a cluster that it does not know.
    return cluster not in destination.clusters if "NC" in theirs.flags else cluster == theirs.cluster


def _raised(error: UpstreamError) -> Seen:
    return _seen(error.status, error.sighting, raised=True, note=str(error))


def _seen(status: int, sighting: Sighting, *, note: str, **rest: object) -> Seen:
    return Seen(
        status,
        frozenset(filter(None, sighting.flag.split(","))),
        sighting.route,
        sighting.cluster,
        sighting.attempt,
        note=note or sighting.detail,
        **rest,  # type: ignore[arg-type]
    )


@contextmanager
def joined(folder: Path, plane: Plane, dice: LoadedDice) -> Iterator[Ours]:
    """A mesh of our own while it lasts."""
    settings = Settings(
        namespace=NAMESPACE,
        labels=OUR_LABELS,
        instance="referee-library",
        control_plane=plane.xds,
        token=plane.ask("/v1/tokens", {"serviceAccount": "referee", "namespace": NAMESPACE})["token"],
        root_cert=plane.root_cert,
        home=str(folder),
        strict=False,
    )
    mesh = Mesh(settings)
    before = client_async.random
    client_async.random = SimpleNamespace(random=dice)
    try:
        assert mesh.ready(20), mesh.problem
        yield Ours(mesh, dice)
    finally:
        client_async.random = before
        mesh.close()


async def gathered(limit: int, jobs: list) -> list:  # type: ignore[type-arg]
    """Results of coroutine functions, at most so many under way at once."""
    gate = asyncio.Semaphore(limit)

    async def one(job):  # type: ignore[no-untyped-def]
        async with gate:
            return await job()

    return await asyncio.gather(*(one(job) for job in jobs))
