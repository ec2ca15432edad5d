"""The environment -> settings, and advice where it is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from meshlib.config.model import Locality
from meshlib.errors import SettingsError
from meshlib.runtime.settings import Settings


def test_nothing_set() -> None:
    """A pure client of the local control plane."""
    settings = Settings.from_env({})
    assert (settings.service, settings.namespace, settings.control_plane) == ("", "default", "127.0.0.1:15012")
    assert settings.instance == settings.workload == f"client-{os.getpid()}"
    assert settings.cache_dir == str(Path("~/.meshlib/cache").expanduser())
    assert settings.enabled
    assert not settings.strict


def test_everything_set() -> None:
    """Each variable by its name."""
    settings = Settings.from_env(
        {
            "MESHLIB_SERVICE": "reviews",
            "MESHLIB_NAMESPACE": "books",
            "MESHLIB_PORT": "9080",
            "MESHLIB_TARGET_PORT": "43210",
            "MESHLIB_ADDRESS": "10.0.0.7",
            "MESHLIB_PROTOCOL": "HTTP",
            "MESHLIB_LABELS": "app=reviews, version=v1,",
            "MESHLIB_LOCALITY": "eu/a",
            "MESHLIB_CONTROL_PLANE": "[::1]:15012",
            "MESHLIB_TOKEN": "secret-token",
            "MESHLIB_HOME": "/tmp/home",
            "MESHLIB_PREFETCH": "Ratings:9080, details:9080",
            "MESHLIB_FORWARD_HEADERS": "End-User,x-tenant",
            "MESHLIB_TRACE_SAMPLING": "100",
            "MESHLIB_ACCESS_LOG": "JSON",
            "MESHLIB_STATS_ADDRESS": "127.0.0.1:15090",
            "MESHLIB_STRICT": "true",
            "MESHLIB_CERTIFICATE_LIFETIME": "60",
            "MESHLIB_DOMAIN": "example.org",
            "MESHLIB_ENABLED": "0",
            "HOSTNAME": "reviews-v1-7f",
        }
    )
    assert settings == Settings(
        service="reviews",
        namespace="books",
        port=9080,
        target_port=43210,
        address="10.0.0.7",
        labels={"app": "reviews", "version": "v1"},
        instance="reviews-v1-7f",
        workload="reviews-v1",
        locality=Locality("eu", "a"),
        control_plane="[::1]:15012",
        token="secret-token",
        home="/tmp/home",
        cache_dir="/tmp/home/cache",
        prefetch=("ratings:9080", "details:9080"),
        forward_headers=("end-user", "x-tenant"),
        trace_sampling=100.0,
        access_log="json",
        stats_address="127.0.0.1:15090",
        strict=True,
        certificate_lifetime=60,
        domain="example.org",
        enabled=False,
    )
    assert "secret-token" not in repr(settings)


@pytest.mark.parametrize(
    ("variable", "value", "example"),
    [
        ("MESHLIB_PORT", "http", "9080"),
        ("MESHLIB_PORT", "70000", "9080"),
        ("MESHLIB_LABELS", "reviews", "app=reviews,version=v1"),
        ("MESHLIB_LOCALITY", "a/b/c/d", "region/zone/subzone"),
        ("MESHLIB_CONTROL_PLANE", "localhost", "127.0.0.1:15012"),
        ("MESHLIB_CONTROL_PLANE", ":15012", "127.0.0.1:15012"),
        ("MESHLIB_TRACE_SAMPLING", "101", "1.0"),
        ("MESHLIB_TRACE_SAMPLING", "nan", "1.0"),
        ("MESHLIB_ACCESS_LOG", "xml", "text"),
        ("MESHLIB_STRICT", "maybe", "1"),
        ("MESHLIB_CERTIFICATE_LIFETIME", "0", "86400"),
        ("MESHLIB_SERVICE", "re views", "reviews"),
        ("MESHLIB_SERVICE", "a~b", "reviews"),
    ],
)
def test_wrong_values_are_answered_with_an_example(variable: str, value: str, example: str) -> None:
    """The message can be acted upon without the manual."""
    with pytest.raises(SettingsError, match=f"{variable}=.*; write for example {re.escape(variable)}={re.escape(example)}"):
        Settings.from_env({variable: value})


def test_the_workload_is_named_as_a_deployment() -> None:
    """Service and version; the service alone without a version."""
    assert Settings(service="reviews", labels={"version": "v2"}).workload == "reviews-v2"
    assert Settings(service="reviews").workload == "reviews"
    assert Settings(service="reviews", workload="other").workload == "other"


def test_tokens(tmp_path: Path) -> None:
    """In the environment or in a file that is read for each use."""
    assert Settings(token="a", token_file="/nowhere").read_token() == "a"
    assert Settings().read_token() == ""
    file = tmp_path / "token"
    settings = Settings(token_file=str(file))
    with pytest.raises(SettingsError, match="MESHLIB_TOKEN_FILE"):
        settings.read_token()
    file.write_text("one\n")
    assert settings.read_token() == "one"
    file.write_text("two\n")
    assert settings.read_token() == "two"


def test_root_certificates(tmp_path: Path) -> None:
    """What is set, else that of this user's own control plane, else the system's."""
    home = tmp_path / "home"
    assert Settings(home=str(home)).read_root_cert() is None
    (home / "controlplane").mkdir(parents=True)
    (home / "controlplane" / "root-cert.pem").write_bytes(b"own")
    assert Settings(home=str(home)).read_root_cert() == b"own"
    with pytest.raises(SettingsError, match="MESHLIB_ROOT_CERT"):
        Settings(home=str(home), root_cert=str(tmp_path / "nothing.pem")).read_root_cert()
