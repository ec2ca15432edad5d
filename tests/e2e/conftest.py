"""One Bookinfo for all tasks of this folder; each test begins without any object."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import CONFORMANCE, HOST, Cluster, Page, free_port, start_bookinfo

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="session")
def networking() -> Path:
    """Istio's own, unmodified files."""
    folder = CONFORMANCE / "istio" / "samples" / "bookinfo" / "networking"
    if not folder.exists():
        pytest.skip("no conformance data")
    return folder


@pytest.fixture(scope="session")
def running_bookinfo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, str]]:
    """A control plane and six services, and where the page is."""
    folder = tmp_path_factory.mktemp("bookinfo")
    cluster = Cluster(folder)
    cluster.env |= {"SPANS": str(folder / "spans"), "PYTHONPATH": str(Path(__file__).parent / "programs" / "otel")}
    port = free_port()
    try:
        cluster.start_control_plane()
        start_bookinfo(cluster, port)
        yield cluster, f"http://{HOST}:{port}"
    finally:
        cluster.stop()


@pytest.fixture
def bookinfo(running_bookinfo: tuple[Cluster, str]) -> Cluster:
    """Bookinfo without any policy."""
    cluster, _ = running_bookinfo
    cluster.reset()
    return cluster


@pytest.fixture
def site(running_bookinfo: tuple[Cluster, str]) -> str:
    """The page's origin: `http://127.0.0.1:PORT`."""
    return running_bookinfo[1]


@pytest.fixture
def visit(site: str) -> Callable[..., Page]:
    """`visit(user)` loads the page as that user, or as nobody."""

    def load(user: str = "") -> Page:
        with httpx.Client(base_url=site, timeout=30, follow_redirects=True) as client:
            if user:
                client.post("/login", data={"username": user, "passwd": user}, follow_redirects=False)
            response = client.get("/productpage")
            assert response.status_code == 200, response.text
            return Page(response.text, response.elapsed.total_seconds())

    return load


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An empty mesh of the test's own, without even a control plane."""
    cluster = Cluster(tmp_path)
    try:
        yield cluster
    finally:
        cluster.stop()


def needs(program: str) -> None:
    """Skips where a Debian package is missing; a missing one in continuous integration is a failure."""
    if shutil.which(program) is None:
        message = f"needs Debian's {program}; as root, scripts/debian.sh installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path."""
    needs("chromium")
    return str(shutil.which("chromium"))
