"""docs/grpc.md says in a table what each engine can. Every cell is tried here, and no row is left out."""

from __future__ import annotations

import inspect
import itertools
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import grpc.aio
import pytest

import meshlib
import meshlib_grpc
import meshlib_grpc.aio
from meshlib.errors import SettingsError
from meshlib_grpc import native
from tests.support.cluster import eventually
from tests.support.grpc_mesh import JSON, Caller, GrpcMesh, grpc_mesh
from tests.support.ports import refusing_port

DOCUMENT = Path(__file__).parents[3] / "docs" / "grpc.md"
ENGINES = ("engine", "native")
V2 = "route: [{destination: {host: reviews, subset: v2}}]"


def rows() -> dict[str, tuple[str, str]]:
    """The table: id -> what engine 1 and engine 2 do."""
    lines = DOCUMENT.read_text().split("| id | claim |")[1].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in itertools.takewhile(str.strip, lines)]
    return {name: (first, second) for name, _, first, second in cells}


class Scene:
    """One engine's client, in a mesh with two versions of a service behind engine 1.

    `documented` is the cell: trials whose outcome is a range say whether what happened is in it.
    """

    def __init__(self, mesh: GrpcMesh, engine: str, caller: Caller) -> None:
        self.mesh = mesh
        self.engine = engine
        self.caller = caller
        self.documented = ""

    def route(self, rule: str) -> None:
        """A VirtualService with a rule; everything else goes to v1."""
        self.mesh.apply(f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews}}
spec:
  host: reviews
  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
  - {rule}
  - route: [{{destination: {{host: reviews, subset: v1}}}}]
""")

    def peers(self, mode: str) -> None:
        """A PeerAuthentication for everybody."""
        self.mesh.apply(f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default}}
spec: {{mtls: {{mode: {mode}}}}}
""")

    def goes(self, match: str, **sent: str) -> bool:
        """Whether a call meets a condition."""
        self.route(f"match: [{{{match}}}]\n    {V2}")
        return self.caller.one(**sent).get("who") == "reviews-v2"


_keys = itertools.count()


def yes(fact: bool) -> str:
    return "yes" if fact else "no"


def met(fact: bool) -> str:
    return "yes" if fact else "never met"


def weights(scene: Scene) -> str:
    share = "{destination: {host: reviews, subset: v%d}, weight: %d}"
    scene.route(f"route: [{share % (1, 80)}, {share % (2, 20)}]")
    found = [one["who"] for one in scene.caller.call(count=200)]
    return yes(10 < found.count("reviews-v2") < 80)


def headers(scene: Scene) -> str:
    by_metadata = scene.goes("headers: {end-user: {exact: jason}}", end_user="jason") and not scene.caller.one(
        end_user="anna"
    ).get("who", "").endswith("v2")
    return yes(by_metadata and scene.goes("uri: {exact: /test.Reviews/Say}"))


def without_headers(scene: Scene) -> str:
    missing = scene.goes("withoutHeaders: {end-user: {exact: jason}}")
    other = scene.goes("withoutHeaders: {end-user: {exact: jason}}", end_user="anna")
    return yes(missing and other and not scene.goes("withoutHeaders: {end-user: {exact: jason}}", end_user="jason"))


def http_method(scene: Scene) -> str:
    return yes(scene.goes("method: {exact: POST}") and not scene.goes("method: {exact: GET}"))


def authority(scene: Scene) -> str:
    return met(scene.goes("authority: {exact: 'reviews:9080'}"))


def user_agent(scene: Scene) -> str:
    return met(scene.goes("headers: {user-agent: {prefix: grpc-python}}"))


def _tries(scene: Scene, attempts: int, failing: int) -> JSON:
    scene.route(f"retries: {{attempts: {attempts}, retryOn: unavailable}}\n    match: [{{uri: {{prefix: /}}}}]\n    {V2}")
    key = f"{scene.engine} {next(_keys)}"
    return scene.caller.one(x_key=key, x_fail="UNAVAILABLE", x_fail_first=str(failing))


def retries(scene: Scene) -> str:
    return yes(_tries(scene, 3, 2).get("tries") == 3)


def many_retries(scene: Scene) -> str:
    found = _tries(scene, 6, 6)
    return "yes" if found["code"] == "OK" else str(int(found["details"].split()[1]) - 1)


def abort(scene: Scene) -> str:
    def aborted(how: str) -> str:
        scene.route(f"fault: {{abort: {{{how}, percentage: {{value: 100}}}}}}\n    match: [{{uri: {{prefix: /}}}}]\n    {V2}")
        return str(scene.caller.one()["code"])

    return yes((aborted("grpcStatus: ABORTED"), aborted("httpStatus: 503")) == ("ABORTED", "UNAVAILABLE"))


def delay(scene: Scene) -> str:
    scene.route(
        f"fault: {{delay: {{fixedDelay: 300ms, percentage: {{value: 100}}}}}}\n    match: [{{uri: {{prefix: /}}}}]\n    {V2}"
    )
    found = scene.caller.one()
    return yes(found["code"] == "OK" and found["seconds"] >= 0.3)


def timeout(scene: Scene) -> str:
    scene.route(f"timeout: 1s\n    match: [{{uri: {{prefix: /}}}}]\n    {V2}")
    found = scene.caller.one(x_sleep="4")
    assert found["code"] == "DEADLINE_EXCEEDED"
    late = {"exact": 0.3, "up to 1 s late": 1.3}[scene.documented]  # 0.3 s for a busy machine
    return scene.documented if 0.95 < found["seconds"] < 1 + late else f"after {found['seconds']} s"


def strict_client(scene: Scene) -> str:
    scene.peers("STRICT")
    found = scene.caller.one()
    return yes(found["code"] == "OK" and found["peer"].endswith("/sa/client"))


def outside(scene: Scene) -> str:
    with refusing_port() as port:
        target = f"outside.invalid:{port}"
        caller = scene.mesh.caller(f"outside-{scene.engine}", scene.engine, target=target)
        found = caller.one(timeout=30)
    assert found["code"] == "UNAVAILABLE"
    if "DNS" in found["details"] or "resol" in found["details"].lower():
        return "gRPC's own channel"
    return _refused(found)


def missing_subset(scene: Scene) -> str:
    scene.route("match: [{uri: {prefix: /}}]\n    route: [{destination: {host: reviews, subset: v9}}]")
    # A new client: one that has routes already goes on with them for those 15 s.
    return _refused(scene.mesh.caller(f"missing-{scene.engine}", scene.engine).one(timeout=30))


def _refused(found: JSON) -> str:
    when = "after 15 s" if 12 < found["seconds"] < 18 else "at once" if found["seconds"] < 2 else f"after {found['seconds']} s"
    return f"{found['code']} {when}"


def _handshakes(port: int) -> bool | None:
    try:
        ssl.get_server_certificate(("127.0.0.1", port), timeout=3)
    except ssl.SSLError:
        return False
    except OSError:
        return None
    return True


def _answers_plainly(scene: Scene, port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary("/test.Ratings/Say")(b"", timeout=5)
        except grpc.RpcError:
            return False
        return True


def strict_server(scene: Scene) -> str:
    scene.peers("STRICT")
    name = f"ratings-strict-{scene.engine}"
    port = scene.mesh.service(name, "v1", engine=scene.engine, service="ratings")
    try:
        eventually(lambda: _handshakes(port) is not None, "the port is bound")
        found = scene.mesh.caller(f"{name}-caller", "engine", target="ratings:9080").one()
        return yes(found["code"] == "OK" and bool(found["peer"]) and not _answers_plainly(scene, port))
    finally:
        scene.mesh.stop(name)


def permissive_server(scene: Scene) -> str:
    name = f"ratings-permissive-{scene.engine}"
    port = scene.mesh.service(name, "v1", engine=scene.engine, service="ratings")
    try:
        eventually(lambda: _handshakes(port) is not None, "the port is bound")
        assert _answers_plainly(scene, port)
        return "both on one port" if _handshakes(port) else "plain text only"
    finally:
        scene.mesh.stop(name)


def aio_server(scene: Scene) -> str:
    if scene.engine == "engine":
        return yes(hasattr(meshlib_grpc.aio, "add_port") and hasattr(meshlib_grpc.aio, "server_interceptor"))
    # grpcio itself has none: the day it has, this fails and the row is to be thought over.
    return yes("xds" in inspect.signature(grpc.aio.server).parameters or hasattr(native, "aio_server"))


def port_zero(scene: Scene) -> str:
    pool = ThreadPoolExecutor(1)
    if scene.engine == "engine":
        server = grpc.server(pool)
        switched_off = meshlib.Mesh(meshlib.Settings(enabled=False))
        try:
            return yes(meshlib_grpc.add_port(server, "127.0.0.1:0", mesh=switched_off) > 0)
        finally:
            server.stop(None)
    with pytest.raises(SettingsError, match="names no port"):
        native.server("127.0.0.1:0", pool)
    return "refused"


def no_bootstrap(scene: Scene) -> str:
    if scene.engine == "engine":
        return "-"  # it needs none
    name = "without-bootstrap"
    env = scene.mesh.environment(name, "bookinfo-ratings", GRPC_XDS_BOOTSTRAP=str(scene.mesh.folder / "missing.json"))
    process, log = scene.mesh.start(name, "grpc_service.py", "native", "127.0.0.1:9081", env=env)
    assert process.wait(30) == 1
    return "refused" if "no usable bootstrap" in log.read_text() else log.read_text()[-500:]


def keys(scene: Scene) -> str:
    name = f"keys-{scene.engine}"
    place = scene.mesh.folder / f"run-{name}"
    place.mkdir(mode=0o700)
    caller = scene.mesh.caller(name, scene.engine, XDG_RUNTIME_DIR=str(place))
    assert caller.one()["code"] == "OK"
    searched = [place, scene.mesh.folder / "home" / name]
    files = [path for folder in searched for path in folder.rglob("*") if path.is_file()]
    return "in files" if any(b"PRIVATE KEY" in path.read_bytes() for path in files) else "in memory"


TRIALS: dict[str, Callable[[Scene], str]] = {
    trial.__name__.replace("_", "-"): trial
    for trial in (
        weights,
        headers,
        without_headers,
        http_method,
        authority,
        user_agent,
        retries,
        many_retries,
        abort,
        delay,
        timeout,
        strict_client,
        outside,
        missing_subset,
        strict_server,
        permissive_server,
        aio_server,
        port_zero,
        no_bootstrap,
        keys,
    )
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GrpcMesh, dict[str, Caller]]]:
    with grpc_mesh(tmp_path_factory.mktemp("engines")) as mesh:
        for version in ("v1", "v2"):
            mesh.service(f"reviews-{version}", version, engine="engine")
        yield mesh, {engine: mesh.caller(f"client-{engine}", engine) for engine in ENGINES}


def test_every_row_is_tried_and_every_trial_has_a_row() -> None:
    """In the table's order."""
    assert list(rows()) == list(TRIALS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("claim", TRIALS)
def test_the_table_is_true(running: tuple[GrpcMesh, dict[str, Caller]], claim: str, engine: str) -> None:
    """What happens is what the cell says, and nobody rejects anything."""
    mesh, callers = running
    mesh.reset()
    eventually(lambda: callers[engine].one()["code"] == "OK", "the rules of the trial before are gone")
    scene = Scene(mesh, engine, callers[engine])
    scene.documented = rows()[claim][ENGINES.index(engine)]
    assert TRIALS[claim](scene) == scene.documented
    assert mesh.rejected() == []
