"""A control plane inside a test, on ports of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
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


@asynccontextmanager
async def asking(plane: ControlPlane, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its API with the admin token, or with another one."""
    if token is None:
        token = admin_token(plane)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(base_url=plane.current.api, headers=headers, trust_env=False) as client:
        yield client
