"""Which processes make Bookinfo, and with which words on the command line."""

from __future__ import annotations

import secrets
import string
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ALPHABET = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Program:
    """One process of the example.

    Args:
        service: its name in the mesh; its service account is `bookinfo-SERVICE`, as in Istio's Bookinfo.
        command: what runs after `meshlib run ... --`.
        env: what this program wants to know beside the mesh's own settings.
    """

    service: str
    version: str
    command: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    instance: str = ""

    @property
    def name(self) -> str:
        """`reviews-v1`: the workload."""
        return f"{self.service}-{self.version}"

    @property
    def account(self) -> str:
        """The service account that its identity is made from."""
        return f"bookinfo-{self.service}"


def folder() -> Path:
    """Where the example's files are: inside an installed package, or in the source tree."""
    packaged = Path(__file__).with_name("examples") / "bookinfo"
    return packaged if packaged.exists() else Path(__file__).parents[3] / "examples" / "bookinfo"


def programs(host: str, port: int) -> Iterator[Program]:
    """All six; only the page has a port that people know, the others take a free one and tell the mesh."""
    uvicorn = (sys.executable, "-m", "uvicorn", "--host", host, "--port", "0", "--log-level", "warning")
    page = (sys.executable, "-m", "gunicorn", "--bind", f"{host}:{port}", "--threads", "8", "--log-level", "warning")
    yield _instance("details", "v1", (*uvicorn, "details:app"))
    yield _instance("ratings", "v1", (*uvicorn, "ratings:app"))
    for version in ("v1", "v2", "v3"):
        yield _instance("reviews", version, (*uvicorn, "reviews:app"), {"REVIEWS_VERSION": version})
    yield _instance("productpage", "v1", (*page, "productpage:app"), {"PRODUCTPAGE_SECRET": secrets.token_hex(16)})


def _instance(service: str, version: str, command: tuple[str, ...], env: dict[str, str] | None = None) -> Program:
    suffix = "".join(secrets.choice(ALPHABET) for _ in range(5))
    instance = f"{service}-{version}-{suffix}"
    return Program(service, version, command, {"HOSTNAME": instance} | (env or {}), instance)
