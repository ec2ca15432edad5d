"""Engine 2: what surrounds grpcio's own xDS client and server. Each case is a process: grpcio reads its bootstrap once."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from meshlib_grpc import _native_guard
from tests.support.cluster import eventually, free_port
from tests.support.grpc_mesh import GrpcMesh, grpc_mesh

HEAD = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
import meshlib
from meshlib.errors import MeshError, SettingsError
from meshlib_grpc import native

def tell(*what): print(json.dumps(what), flush=True)
def refused(action):
    try: action()
    except MeshError as error: tell(type(error).__name__, str(error))
    else: tell("allowed")
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcMesh]:
    with grpc_mesh(tmp_path_factory.mktemp("mesh")) as running:
        yield running


@pytest.fixture
def env(mesh: GrpcMesh, tmp_path: Path) -> dict[str, str]:
    """A member's environment, with a place of its own for its private folder."""
    return mesh.environment("member", "client", XDG_RUNTIME_DIR=str(tmp_path))


def told(script: str, env: dict[str, str], *arguments: str) -> list[list[str]]:
    """What a script told, line by line."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script, *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def folders(place: Path) -> list[Path]:
    return sorted(place.glob("meshlib-grpc-*"))


# The bootstrap and its folder


def test_the_private_folder_is_private_and_gone_at_the_end(env: dict[str, str], tmp_path: Path) -> None:
    """Folder 0700, key 0600; nothing stays on disk."""
    script = """
native.prepare()
path = os.environ["GRPC_XDS_BOOTSTRAP"]
home = os.path.dirname(path)
key = json.load(open(path))["certificate_providers"]["default"]["config"]["private_key_file"]
tell(oct(os.stat(home).st_mode & 0o777), oct(os.stat(key).st_mode & 0o777), "PRIVATE KEY" in open(key).read(), home)
"""
    ((home_mode, key_mode, key, home),) = told(script, env)
    assert (home_mode, key_mode, key) == ("0o700", "0o600", True)
    assert Path(home).parent == tmp_path
    assert folders(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_is_in_use_is_not(
    env: dict[str, str], tmp_path: Path
) -> None:
    """A lock tells which is which: the system frees it with the process."""
    alive = [waiting_member(env) for _ in range(2)]
    try:
        before = folders(tmp_path)
        alive[0].send_signal(signal.SIGKILL)
        alive[0].wait()
        assert len(before) == len(folders(tmp_path)) == 2
        told("native.prepare()", env)
        (left,) = folders(tmp_path)
        assert left in before
    finally:
        for process in alive:
            process.kill()
            process.communicate()


def waiting_member(env: dict[str, str]) -> subprocess.Popen[str]:
    script = HEAD + "native.prepare(); tell('ready'); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == ["ready"]
    return process


def test_a_users_bootstrap_is_taken_as_it_is(env: dict[str, str], tmp_path: Path) -> None:
    """Nothing of ours is made."""
    env["GRPC_XDS_BOOTSTRAP"] = str(tmp_path / "own.json")
    assert told("native.prepare(); tell(os.environ['GRPC_XDS_BOOTSTRAP'])", env) == [[str(tmp_path / "own.json")]]
    assert folders(tmp_path) == []


def test_a_child_does_not_take_its_parents_bootstrap_for_its_own(env: dict[str, str]) -> None:
    """It would share the parent's identity, its registration, and files that the parent removes."""
    script = """
import subprocess
native.prepare()
if len(sys.argv) == 1:
    tell(os.environ["GRPC_XDS_BOOTSTRAP"])
    subprocess.run([sys.executable, "-c", sys.orig_argv[2], "child"], check=True)
else:
    tell(os.environ["GRPC_XDS_BOOTSTRAP"])
"""
    (parents,), (childs,) = told(script, env)
    assert parents != childs


def test_one_process_is_one_member(env: dict[str, str]) -> None:
    """grpcio reads its bootstrap once: a second mesh would act as the first."""
    script = """
native.prepare(meshlib.Mesh(meshlib.Settings.from_env(os.environ)))
refused(lambda: native.prepare(meshlib.Mesh(meshlib.Settings.from_env({**os.environ, "MESHLIB_INSTANCE": "another"}))))
native.prepare(meshlib.Mesh(meshlib.Settings.from_env(os.environ)))
"""
    ((kind, why),) = told(script, env)
    assert kind == "SettingsError"
    assert "another" in why


def test_a_server_that_comes_too_late_to_be_announced_is_told_what_to_do(env: dict[str, str]) -> None:
    """The registration is in the bootstrap."""
    script = """
native.channel("reviews:9080")
refused(lambda: native.server("127.0.0.1:9081", ThreadPoolExecutor(1)))
"""
    ((kind, why),) = told(script, env)
    assert kind == "SettingsError"
    assert "prepare(serves=9081)" in why


def test_announced_beforehand_it_may_come_later(env: dict[str, str]) -> None:
    """Channels first, then the server."""
    script = """
native.prepare(serves=9081)
native.channel("reviews:9080")
refused(lambda: native.server("127.0.0.1:9081", ThreadPoolExecutor(1)).stop(None))
"""
    assert told(script, env) == [["allowed"]]


def test_without_a_token_there_is_no_channel_and_the_reason(env: dict[str, str], tmp_path: Path) -> None:
    """At once: trying again would not help."""
    env["MESHLIB_TOKEN"] = "nonsense"
    ((kind, why),) = told("refused(lambda: native.channel('reviews:9080'))", env)
    assert (kind, "meshlib token create" in why) == ("CredentialError", True)
    assert folders(tmp_path) == []


def test_without_a_control_plane_there_is_no_channel_and_the_reason(env: dict[str, str], tmp_path: Path) -> None:
    """After the patience asked for."""
    env["MESHLIB_CONTROL_PLANE"] = "127.0.0.1:1"
    ((kind, why),) = told("refused(lambda: native.prepare(timeout=0.1))", env)
    assert (kind, "cannot be reached" in why) == ("ControlPlaneError", True)
    assert folders(tmp_path) == []


@pytest.mark.parametrize("target", ["127.0.0.1:9080", "localhost:9080", "[::1]:9080"])
def test_an_address_is_no_destination(env: dict[str, str], target: str) -> None:
    """grpcio would wait 15 s and say that a resource does not exist."""
    ((kind, why),) = told(f"refused(lambda: native.channel({target!r}))", env)
    assert (kind, target in why) == ("SettingsError", True)


def test_a_mesh_that_is_switched_off_leaves_grpc_alone(env: dict[str, str], tmp_path: Path) -> None:
    """MESHLIB_ENABLED=0: an ordinary channel."""
    env["MESHLIB_ENABLED"] = "0"
    assert told("native.channel('reviews:9080'); tell('GRPC_XDS_BOOTSTRAP' in os.environ)", env) == [[False]]
    assert folders(tmp_path) == []


# The server


def test_without_a_bootstrap_no_server_is_served(env: dict[str, str], tmp_path: Path) -> None:
    """grpcio logs a line and would serve plain text to everybody."""
    env["GRPC_XDS_BOOTSTRAP"] = str(tmp_path / "missing.json")
    ((kind, why),) = told("refused(lambda: native.server('127.0.0.1:9081', ThreadPoolExecutor(1)))", env)
    assert (kind, "no usable bootstrap" in why) == ("SettingsError", True)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000"])
def test_a_server_needs_a_port(env: dict[str, str], address: str) -> None:
    """The control plane is asked for a listener by its address."""
    ((kind, why),) = told(f"refused(lambda: native.server({address!r}, ThreadPoolExecutor(1)))", env)
    assert (kind, "names no port" in why) == ("SettingsError", True)


PLAIN_OR_TLS = [("PERMISSIVE", False), ("STRICT", True), ("DISABLE", False)]


@pytest.mark.parametrize(("mode", "secured"), PLAIN_OR_TLS)
def test_its_port_is_what_the_peer_authentication_says(mesh: GrpcMesh, mode: str, secured: bool) -> None:
    """PERMISSIVE is plain text: grpcio cannot serve both on one port. A change is followed while it runs."""
    name = f"ratings-{mode.lower()}"
    port = mesh.service(name, "v1", engine="native", service="ratings")
    mesh.apply(f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default}}
spec: {{mtls: {{mode: {mode}}}}}
""")
    try:
        eventually(lambda: speaks_tls(port) is secured, f"TLS {secured}")
        answer = mesh.caller(f"caller-{mode}", "native", target="ratings:9080").one()
        assert answer["code"] == "OK", answer
        assert answer["peer"] == ("spiffe://cluster.local/ns/default/sa/client" if secured else "")
        assert mesh.rejected() == []
    finally:
        mesh.stop(name)
        mesh.reset()


def speaks_tls(port: int) -> bool | None:
    """Whether a port shakes hands; None: it is not bound yet. That we show no certificate ends TLS 1.3 only afterwards."""
    try:
        ssl.get_server_certificate(("127.0.0.1", port), timeout=2)
    except ssl.SSLError:
        return False
    except OSError:
        return None
    return True


def test_the_registration_lives_as_long_as_the_process(mesh: GrpcMesh) -> None:
    """Node metadata of its own ADS stream; so may a program of any language register."""
    mesh.service("details-v1", "v1", engine="native", service="details")
    (row,) = [row for row in mesh.proxies() if row["name"] == "details-v1"]
    assert (row["kind"], row["services"], row["serviceAccount"]) == ("grpc", ["details"], "bookinfo-details")
    assert [port["protocol"] for port in row["ports"]] == ["grpc"]
    mesh.stop("details-v1")
    eventually(lambda: all(row["name"] != "details-v1" for row in mesh.proxies()), "gone")


ENDS = """
class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.rpartition("/")[2]
        def one(request, context):
            if name == "abort": context.abort(grpc.StatusCode.UNAVAILABLE, "told to")
            if name == "opened":
                context.send_initial_metadata((("x", "y"),))
                context.abort(grpc.StatusCode.UNAVAILABLE, "told to")
            if name == "raise": raise ValueError("oh")
            if name == "code":
                context.set_code(grpc.StatusCode.INTERNAL)
                context.set_details("said so")
            return b"ok"
        def many(request, context):
            if name == "many-abort": context.abort(grpc.StatusCode.UNAVAILABLE, "told to")
            if name == "many": yield b"ok"
        def fail(_): raise ValueError
        if name == "find": raise KeyError(name)
        if name == "unknown": return None
        if name.startswith(("many", "empty")): return grpc.unary_stream_rpc_method_handler(many)
        return grpc.unary_unary_rpc_method_handler(
            one, fail if name == "read" else None, fail if name == "write" else None)

server = native.server(sys.argv[1], ThreadPoolExecutor(4), handlers=[Handlers()])
server.start()
tell("started")
server.wait_for_termination()
"""


def test_no_end_of_a_call_ends_the_process(mesh: GrpcMesh, env: dict[str, str]) -> None:
    """grpcio 1.84 and newer abort the whole process when a call ends before its first metadata; codes and texts are kept."""
    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen([sys.executable, "-c", HEAD + ENDS, address], env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == ["started"]
            with grpc.insecure_channel(address) as channel:
                found = {name: end(channel, name) for name in EXPECTED}
            assert found == EXPECTED
            assert process.poll() is None
        finally:
            process.kill()


EXPECTED = {
    "ok": ("OK", ""),
    "abort": ("UNAVAILABLE", "told to"),
    "opened": ("UNAVAILABLE", "told to"),
    "raise": ("UNKNOWN", "Exception calling application: oh"),
    "code": ("INTERNAL", "said so"),
    "many": ("OK", ""),
    "many-abort": ("UNAVAILABLE", "told to"),
    "empty": ("OK", ""),
    "find": ("UNKNOWN", "Exception iterating responses: 'find'"),
    "unknown": ("UNIMPLEMENTED", "Method not found!"),
    "read": ("INTERNAL", "Exception deserializing request!"),
    "write": ("INTERNAL", "Failed to serialize response!"),
}


def end(channel: grpc.Channel, name: str) -> tuple[str, str]:
    """How a call ended."""
    try:
        if name.startswith(("many", "empty")):
            list(channel.unary_stream(f"/test.Ends/{name}")(b"", timeout=10, wait_for_ready=True))
        else:
            channel.unary_unary(f"/test.Ends/{name}")(b"", timeout=10, wait_for_ready=True)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


@pytest.mark.parametrize(
    ("version", "needed"), [("1.66.2", False), ("1.83.1", False), ("1.84.0", True), ("1.85.1", True), ("2.0.0", True)]
)
def test_only_releases_that_need_it_pay_for_it(version: str, needed: bool) -> None:
    """The guard's price is that clients do not retry."""
    assert _native_guard.needed(version) is needed


def test_a_fork_joins_anew(env: dict[str, str]) -> None:
    """Threads do not come along; the child has a folder and a renewal of its own."""
    script = """
native.prepare()
mine = os.environ["GRPC_XDS_BOOTSTRAP"]
child = os.fork()
if child == 0:
    native.prepare()
    tell(os.environ["GRPC_XDS_BOOTSTRAP"] != mine)
    os._exit(0)
os.waitpid(child, 0)
tell(os.path.exists(mine))
"""
    env["GRPC_ENABLE_FORK_SUPPORT"] = "1"
    assert told(script, env) == [[True], [True]]


def test_the_environment_is_the_tests_own() -> None:
    """No bootstrap leaks into this process: other tests of grpc would meet it."""
    assert "GRPC_XDS_BOOTSTRAP" not in os.environ
