"""A control plane inside a test, on ports of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx

from meshlib_control.serve import ControlPlane, ControlPlaneOptions

REVIEWS_V1 = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
  - reviews
  http:
  - route:
    - destination:
        host: reviews
        subset: v1
"""

SUBSETS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews
  subsets:
  - name: v1
    labels:
      version: v1
"""

# Line 12: a word that no field has.
TYPO = REVIEWS_V1.replace("subset: v1", "subsett: v1")


def options(folder: Path, **changes: Any) -> ControlPlaneOptions:
    """Free ports, and everything it writes below `folder`."""
    settings: dict[str, Any] = {
        "home": folder / "home",
        "data": folder / "data",
        "xds_address": "127.0.0.1:0",
        "api_address": "127.0.0.1:0",
    }
    return ControlPlaneOptions(**(settings | changes))


@asynccontextmanager
async def running(folder: Path, **changes: Any) -> AsyncIterator[ControlPlane]:
    """A started control plane, stopped at the end."""
    plane = ControlPlane(options(folder, **changes))
    await plane.start()
    try:
        yield plane
    finally:
        await plane.stop()


def admin_token(plane: ControlPlane) -> str:
    """What a command would read."""
    return Path(plane.current.token_file).read_text().strip()


@contextmanager
def in_thread(folder: Path, **changes: Any) -> Iterator[ControlPlane]:
    """A started control plane with an event loop of its own, for tests that call commands, which block."""
    started: Future[ControlPlane] = Future()
    end: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        end.set_result((asyncio.get_running_loop(), stop))
        async with running(folder, **changes) as plane:
            started.set_result(plane)
            await stop.wait()

    thread = Thread(target=lambda: asyncio.run(live()), name="control plane")
    thread.start()
    try:
        yield started.result(timeout=20)
    finally:
        loop, stop = end.result(timeout=20)
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=20)


@asynccontextmanager
async def asking(plane: ControlPlane, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its API with the admin token, or with another one."""
    if token is None:
        token = admin_token(plane)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(base_url=plane.current.api, headers=headers, trust_env=False) as client:
        yield client
