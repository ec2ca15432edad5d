"""`meshlib bootstrap grpc` and `meshlib cert keep`: files for gRPC's own xDS clients, of any language."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshlib_control.serve import ControlPlane
from tests.support.cluster import eventually

from .conftest import Meshlib


@pytest.fixture
def token(meshlib: Meshlib, plane: ControlPlane, tmp_path: Path) -> str:
    path = tmp_path / "ratings.token"
    path.write_text(meshlib("token", "create", "--service-account", "ratings").out)
    return str(path)


@pytest.mark.usefixtures("plane")
def test_the_bootstrap_says_where_who_and_with_which_certificate(meshlib: Meshlib, plane: ControlPlane, token: str) -> None:
    """Four parts; nothing in it is specific to a language, and nothing is secret."""
    result = meshlib(
        *("bootstrap", "grpc", "--certs", "certs", "-s", "ratings", "-p", "9080", "--target-port", "7001"),
        *("-l", "app=ratings", "-l", "version=v2", "--instance", "ratings-v2-a", "--token-file", token),
    )
    assert result.code == 0, result.err
    found = json.loads(result.out)
    (server,) = found["xds_servers"]
    assert server["server_uri"] == plane.current.xds_mtls
    (credentials,) = server["channel_creds"]
    assert credentials["type"] == "tls"
    node = found["node"]
    assert node["id"] == "grpc~127.0.0.1~ratings-v2-a.default~default.svc.cluster.local"
    assert node["metadata"]["LABELS"] == {"app": "ratings", "version": "v2"}
    assert node["metadata"]["MESHLIB_SERVICES"] == [
        {"service": "ratings", "port": 9080, "target_port": 7001, "protocol": "grpc"}
    ]
    provider = found["certificate_providers"]["default"]
    assert provider == {"plugin_name": "file_watcher", "config": credentials["config"]}
    assert found["server_listener_resource_name_template"] == "xds.istio.io/grpc/lds/inbound/%s"
    assert Path(token).read_text().strip() not in result.out


@pytest.mark.usefixtures("plane")
def test_the_files_that_it_names_are_there_and_belong_together(meshlib: Meshlib, token: str) -> None:
    """A leaf in the token's name, its key, and the root; the key is readable by nobody else."""
    config = json.loads(meshlib("bootstrap", "grpc", "--certs", "certs", "--token-file", token).out)
    files = config["certificate_providers"]["default"]["config"]
    leaf = x509.load_pem_x509_certificate(Path(files["certificate_file"]).read_bytes())
    key = load_pem_private_key(Path(files["private_key_file"]).read_bytes(), None)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://cluster.local/ns/default/sa/ratings"]
    assert key.public_key() == leaf.public_key()
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(Path(files["ca_certificate_file"]).read_bytes()))
    assert Path(files["private_key_file"]).stat().st_mode & 0o777 == 0o600
    assert Path("certs").stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("plane")
def test_a_pure_client_registers_nothing(meshlib: Meshlib, token: str) -> None:
    """Without a service there is none."""
    found = json.loads(meshlib("bootstrap", "grpc", "--certs", "certs", "--token-file", token).out)
    assert found["node"]["metadata"]["MESHLIB_SERVICES"] == []


@pytest.mark.usefixtures("plane")
def test_it_can_be_written_to_a_file(meshlib: Meshlib, token: str) -> None:
    """The next step is told to the person, not to the pipe."""
    result = meshlib("bootstrap", "grpc", "--certs", "certs", "--write", "grpc.json", "--token-file", token)
    assert (result.code, result.out) == (0, "")
    assert "GRPC_XDS_BOOTSTRAP=grpc.json" in result.err
    assert "xds_servers" in json.loads(Path("grpc.json").read_text())


@pytest.mark.usefixtures("plane")
def test_without_a_token_it_says_how_to_make_one(meshlib: Meshlib) -> None:
    """And writes nothing."""
    result = meshlib("bootstrap", "grpc", "--certs", "certs")
    assert result.code == 1
    assert "meshlib token create" in result.err
    assert not Path("certs").exists()


def test_without_a_control_plane_it_says_so(meshlib: Meshlib, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 69, after some patience."""
    monkeypatch.setattr("meshlib_control.cli.joining.PATIENCE", 0.1)
    result = meshlib("bootstrap", "grpc", "--certs", "certs", "--control-plane", "127.0.0.1:1")
    assert result.code == 69
    assert "cannot be reached" in result.err


@pytest.mark.usefixtures("plane")
def test_a_service_needs_a_port(meshlib: Meshlib, token: str) -> None:
    """Otherwise nobody could call it."""
    result = meshlib("bootstrap", "grpc", "--certs", "certs", "-s", "ratings", "--token-file", token)
    assert (result.code, "--port 9080" in result.err) == (64, True)


@pytest.mark.usefixtures("plane")
def test_a_folder_that_others_can_look_into_is_refused(meshlib: Meshlib, token: str) -> None:
    """With the command that closes it."""
    Path("certs").mkdir(mode=0o755)
    result = meshlib("certs", "keep", "certs", "--once", "--token-file", token)
    assert (result.code, "chmod 700" in result.err) == (64, True)
    assert list(Path("certs").iterdir()) == []


def test_keep_renews_at_half_of_the_life_until_it_is_told_to_end(plane: ControlPlane, token: str, tmp_path: Path) -> None:
    """A life of three seconds here; the link changes, and with it key, chain and root at once."""
    command = [sys.executable, "-m", "meshlib_control.cli", "certs", "keep", str(tmp_path / "certs"), "--token-file", token]
    env = {**os.environ, "MESHLIB_CERTIFICATE_LIFETIME": "3"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            newest = tmp_path / "certs" / "..data"
            eventually(newest.is_symlink, "a first certificate")
            first = os.readlink(newest)
            eventually(lambda: os.readlink(newest) != first, "a second one")
        finally:
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            told = process.communicate(timeout=10)[1]
    assert process.returncode == 0
    assert time.monotonic() - started < 5
    assert "spiffe://cluster.local/ns/default/sa/ratings" in told


@pytest.mark.usefixtures("plane")
@pytest.mark.parametrize("kind", ["grpc", "envoy"])
def test_a_namespace_that_is_not_the_tokens_is_refused(meshlib: Meshlib, token: str, kind: str) -> None:
    """The control plane would refuse the client later, where nobody looks."""
    result = meshlib("bootstrap", kind, "--certs", "certs", "-n", "other", "--write", "file.json", "--token-file", token)
    assert result.code == 64
    assert "the token is of namespace default, not other" in result.err
    assert not Path("file.json").exists()


@pytest.mark.usefixtures("plane")
def test_a_protocol_that_nobody_speaks_is_refused(meshlib: Meshlib, token: str) -> None:
    """It would be taken for bytes."""
    options = ("-s", "ratings", "-p", "9080", "--certs", "certs", "--protocol", "spdy", "--token-file", token)
    result = meshlib("bootstrap", "envoy", *options)
    assert (result.code, "choose one of http, http2, grpc, https, tls, tcp" in result.err) == (64, True)
