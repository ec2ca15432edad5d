"""Everything that runs: upstreams, one control plane, a real Envoy and a mesh of ours, both served by it."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import meshlib_control.configured
import meshlib_control.snapshots
from meshlib.config.messages import TYPE_PREFIX, message, pack, unpack
from meshlib_control.model import Node, Resource, World
from meshlib_control.translate.build import resource
from meshlib_control.translate.resources import CLUSTER, LISTENER
from tests.conformance import echo, ours, theirs
from tests.conformance.cases import ALIVE, DEAD, NAMESPACE, OUR_LABELS, PORTS, Asked, Case, Json, Place, document
from tests.conformance.echo import Echo
from tests.conformance.ours import LoadedDice, Ours
from tests.conformance.seen import Seen
from tests.conformance.theirs import Theirs
from tests.support import control
from tests.support.envoy_sidecar import Plane, sidecar

CONCURRENCY = 96


@dataclass(frozen=True, slots=True)
class Judged:
    """One request of a case and how it went on both sides."""

    case: Case
    asked: Asked
    theirs: Seen
    ours: Seen


class Arena:
    """All of it, running."""

    def __init__(self, folder: Path, plane: Plane, echo: Echo, dead: Sequence[int], envoy: Theirs, dice: LoadedDice) -> None:
        self._folder = folder
        self._plane = plane
        self._echo = echo
        self._alive, self._dead = tuple(echo.ports), tuple(dead)
        self.envoy = envoy
        self._dice = dice
        self._batches = itertools.count(1)
        self._config = folder / "config"

    async def judge(self, cases: Sequence[Case], *, loaded: bool = True) -> list[list[Judged]]:
        """Each case's requests, carried out by both sides.

        Args:
            loaded: our dice show what led to Envoy's choices; False: chance.
        """
        places = await self.placed(cases)
        batch = int(places[0].slot.partition("x")[0])
        asked = [
            (number, place.request(one))
            for number, (case, place) in enumerate(zip(cases, places, strict=True))
            for one in case.requests
        ]
        with self.joined() as us:
            they_saw, we_saw = await self._both(us, batch, [one for _, one in asked], loaded=loaded)
        judged: list[list[Judged]] = [[] for _ in cases]
        for (number, _), original, their, our in zip(
            asked, [one for case in cases for one in case.requests], they_saw, we_saw, strict=True
        ):
            judged[number].append(Judged(cases[number], original, their, our))
        return judged

    async def placed(self, cases: Sequence[Case]) -> list[Place]:
        """Put the objects of cases in force, in place of those before."""
        batch = next(self._batches)
        places = [Place(f"{batch}x{number}", self._alive, self._dead) for number in range(len(cases))]
        sentinel = f"z{batch}"
        items = [item for case, place in zip(cases, places, strict=True) for item in place.objects(case)]
        self._write([*items, _sentinel(sentinel, self._alive[0])])
        await self._settled(sentinel)
        return places

    def joined(self) -> AbstractContextManager[Ours]:
        """Our side, while it lasts."""
        return ours.joined(self._folder / "mesh", self._plane, self._dice)

    async def _both(self, us: Ours, batch: int, asked: list[Asked], *, loaded: bool) -> tuple[list[Seen], list[Seen]]:
        keys = [f"{batch}-{number}" for number in range(len(asked))]
        answers = await ours.gathered(
            CONCURRENCY, [lambda one=one, key=key: self.envoy.ask(one, key) for one, key in zip(asked, keys, strict=True)]
        )
        log = await self.envoy.logged(set(keys))
        tries = await asyncio.to_thread(self._echo.arrivals)
        places = await asyncio.to_thread(self.envoy.endpoints)
        they_saw = [
            theirs.seen(answer, log.get(key), tries.get(key, []), places) for answer, key in zip(answers, keys, strict=True)
        ]
        # All configuration is there before the first request: reading it takes time that would count as a time-out.
        hosts = {one.host: one for one in asked}.values()
        await ours.gathered(CONCURRENCY, [lambda one=one: us.known(one) for one in hosts])
        we_saw = await ours.gathered(
            CONCURRENCY,
            [
                lambda one=one, key=key, seen=seen: us.see(one, key, seen if loaded else None)
                for one, key, seen in zip(asked, keys, they_saw, strict=True)
            ],
        )
        tries = await asyncio.to_thread(self._echo.arrivals)
        return they_saw, [replace(seen, tries=tuple(tries.get(key, ()))) for seen, key in zip(we_saw, keys, strict=True)]

    def _write(self, items: list[Json]) -> None:
        text = "\n---\n".join(json.dumps(item) for item in items)
        draft = self._config / ".draft"
        draft.write_text(text)
        draft.rename(self._config / "batch.yaml")

    async def _settled(self, sentinel: str) -> None:
        until = time.monotonic() + 30
        waiting = set(PORTS)
        while waiting:
            assert time.monotonic() < until, f"Envoy does not know {sentinel} on {waiting}: {self.envoy.sidecar.told()}"
            for port in list(waiting):
                with suppress(OSError):
                    answer = await self.envoy.ask(Asked("GET", port, f"{sentinel}:{port}", "/"), "sentinel")
                    if answer.status == 200 and answer.body == echo.BODY:
                        waiting.discard(port)
            await asyncio.sleep(0.01)
        while any(self.envoy.sidecar.stats("warming").values()):
            assert time.monotonic() < until, "clusters keep warming"
            await asyncio.sleep(0.01)
        self.envoy.sidecar.assert_nothing_rejected()


def _sentinel(name: str, port: int) -> Json:
    return document(
        "ServiceEntry",
        name,
        {
            "hosts": [f"{name}.default.svc.cluster.local"],
            "location": "MESH_EXTERNAL",
            "resolution": "STATIC",
            "ports": [{"number": number, "name": f"http-{number}", "protocol": "HTTP"} for number in PORTS],
            "endpoints": [{"address": "127.0.0.1", "ports": {f"http-{number}": port for number in PORTS}}],
        },
    )


@contextmanager
def opened(folder: Path, seed: int) -> Iterator[Arena]:
    """An arena below a folder."""
    config = folder / "config"
    config.mkdir()
    with ExitStack() as stack:
        stack.enter_context(_telling(folder / "access.log"))
        upstreams = stack.enter_context(echo.running(ALIVE))
        dead = stack.enter_context(_nobody(DEAD))
        plane = stack.enter_context(control.in_thread(folder, config=config, quiet=0.01))
        log = folder / "access.log"
        arguments = ("--file-flush-interval-msec", "50")
        envoy = stack.enter_context(
            sidecar(plane, folder, name="referee", namespace=NAMESPACE, ports=PORTS, labels=OUR_LABELS, arguments=arguments)
        )
        referee = stack.enter_context(closing(Theirs(envoy, log)))
        yield Arena(folder, Plane.of(plane), upstreams, dead, referee, LoadedDice(seed))


@contextmanager
def _nobody(count: int) -> Iterator[list[int]]:
    """Ports where connections are refused, and nobody else can listen meanwhile."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        yield [sock.getsockname()[1] for sock in sockets]


def _prompt(found: Resource) -> Resource:
    """The cluster, whose endpoints change at once: Envoy else collects what happens to them within a second."""
    cluster = message(CLUSTER.removeprefix(TYPE_PREFIX)).FromString(found.body)
    cluster.common_lb_config.update_merge_window.SetInParent()
    return resource(found.name, cluster)


@contextmanager
def _telling(log: Path) -> Iterator[None]:
    """What the control plane gives an Envoy writes an access log, and tells callers with orders from others."""
    plain = meshlib_control.snapshots.translate

    def translate(world: World, node: Node, type_url: str, name: str) -> Resource | None:
        found = plain(world, node, type_url, name)
        if node.kind != "envoy" or found is None:
            return found
        if type_url == CLUSTER:
            return _prompt(found)
        if type_url != LISTENER:
            return found
        listener = message(LISTENER.removeprefix(TYPE_PREFIX)).FromString(found.body)
        for chain in listener.filter_chains:
            for one in chain.filters:
                if one.typed_config.type_url.endswith("HttpConnectionManager"):
                    manager = unpack(one.typed_config)
                    theirs.trusting(manager)
                    manager.access_log.add().CopyFrom(theirs.access_log(log))
                    one.typed_config.CopyFrom(pack(manager))
        return resource(name, listener)

    whole = meshlib_control.configured.body
    meshlib_control.snapshots.translate = translate
    # `pc` cannot show the access log's message, which the control plane does not know; and nobody here reads bodies.
    meshlib_control.configured.body = lambda found: None
    try:
        yield
    finally:
        meshlib_control.snapshots.translate, meshlib_control.configured.body = plain, whole
