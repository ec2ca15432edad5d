"""One configuration, three kinds of gRPC client, the same outcomes: our engine, grpcio's own xDS client, and a sidecar.

Each kind blocking and on asyncio. A client that rejects anything it is sent fails the test.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.support.cacerts import made, write
from tests.support.cluster import eventually, free_port
from tests.support.envoy_sidecar import Sidecar, sidecar
from tests.support.grpc_mesh import JSON, Caller, GrpcMesh, grpc_mesh

SETTLED = 5.0  # seconds until a change that was acknowledged acts
LIFE = 8  # seconds that certificates live in the test of their rotation

SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


def routed(*rules: str) -> str:
    """A VirtualService whose last rule sends everything to v1."""
    http = "\n".join(f"  - {rule}" for rule in (*rules, "route: [{destination: {host: reviews, subset: v1}}]"))
    head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n"
    return f"{SUBSETS}{head}spec:\n  hosts: [reviews]\n  http:\n{http}\n"


V2 = "route: [{destination: {host: reviews, subset: v2}}]"


class Clients:
    """The same order to every client."""

    def __init__(self, mesh: GrpcMesh, callers: dict[str, Caller]) -> None:
        self.mesh = mesh
        self.callers = callers

    def agree(self, expected: Any, outcome: Callable[[Caller], Any]) -> None:
        """Each client's outcome is the expected one, at the latest when the newest configuration acts."""
        found: dict[str, Any] = {}
        until = time.monotonic() + SETTLED
        for name, caller in self.callers.items():
            found[name] = outcome(caller)
            while found[name] != expected and time.monotonic() < until:
                time.sleep(0.1)
                found[name] = outcome(caller)
        assert found == dict.fromkeys(self.callers, expected)
        assert self.mesh.rejected() == []

    def each(self, fact: Callable[[list[JSON]], bool], count: int, **order: Any) -> None:
        """Many calls of each client, of whose outcomes a fact must hold."""
        for name, caller in self.callers.items():
            found = caller.call(count=count, **order)
            assert fact(found), f"{name}: {Counter(one.get('who') or one['code'] for one in found)}"
        assert self.mesh.rejected() == []


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Two versions of a service and all the clients."""
    folder = tmp_path_factory.mktemp("clients")
    with grpc_mesh(folder) as mesh, ExitStack() as closing:
        for version in ("v1", "v2"):
            mesh.service(f"reviews-{version}", version, engine="engine")
        envoy = closing.enter_context(sidecar(mesh.plane, folder, account="client"))
        yield Clients(mesh, callers_of(mesh, envoy.ports[9080]))


def callers_of(mesh: GrpcMesh, port: int, **settings: str) -> dict[str, Caller]:
    """All the clients; an Envoy of theirs listens on the port."""
    callers = {}
    for mode in ("sync", "aio"):
        for engine in ("engine", "native"):
            callers[f"{engine} {mode}"] = mesh.caller(f"{engine}-{mode}", engine, mode, **settings)
        callers[f"envoy {mode}"] = mesh.caller(f"plain-{mode}", "plain", mode, f"127.0.0.1:{port}=reviews:9080")
    return callers


@pytest.fixture
def clients(running: Clients) -> Clients:
    """All of them, and no object."""
    running.mesh.reset()
    return running


def version(found: JSON) -> str:
    return str(found.get("who", found["code"])).removeprefix("reviews-")


def test_without_a_rule_everybody_answers(clients: Clients) -> None:
    """The method arrives; both versions get calls, whatever the balancing."""
    clients.agree(("OK", "/test.Reviews/Say"), lambda caller: (one := caller.one(), (one["code"], one["method"]))[1])
    clients.each(lambda found: {version(one) for one in found} == {"v1", "v2"}, count=40)


def test_weights_are_kept(clients: Clients) -> None:
    """90 to 10, of 300 calls: 5 to 60 for the smaller share is beyond chance."""
    weighted = "{destination: {host: reviews, subset: v%d}, weight: %d}"
    clients.mesh.apply(routed(f"route: [{weighted % (1, 90)}, {weighted % (2, 10)}]"))
    clients.each(lambda found: 5 <= sum(version(one) == "v2" for one in found) <= 60, count=300)


@pytest.mark.parametrize(
    ("match", "sent", "goes_to"),
    [
        ("headers: {end-user: {exact: jason}}", {"end_user": "jason"}, "v2"),
        ("headers: {end-user: {exact: jason}}", {"end_user": "jasons"}, "v1"),
        ("headers: {end-user: {prefix: ja}}", {"end_user": "jason"}, "v2"),
        ("headers: {end-user: {regex: 'j.*n'}}", {"end_user": "jason"}, "v2"),
        ("headers: {end-user: {}}", {"end_user": "anybody"}, "v2"),
        ("headers: {end-user: {}}", {}, "v1"),
        ("withoutHeaders: {end-user: {exact: jason}}", {}, "v2"),
        ("withoutHeaders: {end-user: {exact: jason}}", {"end_user": "jason"}, "v1"),
        ("withoutHeaders: {end-user: {exact: jason}}", {"end_user": "anna"}, "v2"),
        ("uri: {exact: /test.Reviews/Say}", {}, "v2"),
        ("uri: {exact: /test.Reviews/Shout}", {}, "v1"),
        ("uri: {prefix: /test.}", {}, "v2"),
        ("uri: {prefix: /TEST.}, ignoreUriCase: true", {}, "v2"),
        ("uri: {regex: '/test\\..*/S.y'}", {}, "v2"),
        ("method: {exact: POST}", {}, "v2"),
        ("method: {exact: GET}", {}, "v1"),
        ("scheme: {exact: http}", {}, "v2"),
        ("queryParams: {q: {exact: a}}", {}, "v1"),
    ],
)
def test_conditions_are_read_alike(clients: Clients, match: str, sent: dict[str, str], goes_to: str) -> None:
    """Metadata are headers, a method's name is the path; every call is a POST."""
    clients.mesh.apply(routed(f"match: [{{{match}}}]\n    {V2}"))
    clients.agree(goes_to, lambda caller: version(caller.one(**sent)))


keys = itertools.count(1)


def tried(caller: Caller, **sent: str) -> tuple[str, str]:
    """How a call ended that fails at first, and after how many tries."""
    found = caller.one(x_key=f"key {next(keys)}", x_fail="UNAVAILABLE", **sent)
    return found["code"], str(found.get("tries") or found["details"].split()[1])


def test_retries_happen_until_one_succeeds(clients: Clients) -> None:
    """Two tries fail, the third is the answer."""
    clients.mesh.apply(routed("retries: {attempts: 3, retryOn: unavailable}\n    match: [{uri: {prefix: /}}]\n    " + V2))
    clients.agree(("OK", "3"), lambda caller: tried(caller, x_fail_first="2"))


def test_retries_end(clients: Clients) -> None:
    """Two attempts besides the first."""
    clients.mesh.apply(routed("retries: {attempts: 2, retryOn: unavailable}\n    match: [{uri: {prefix: /}}]\n    " + V2))
    clients.agree(("UNAVAILABLE", "3"), tried)


def test_no_retries_is_none(clients: Clients) -> None:
    """Attempts: 0 switches the default off."""
    clients.mesh.apply(routed("retries: {attempts: 0}\n    match: [{uri: {prefix: /}}]\n    " + V2))
    clients.agree(("UNAVAILABLE", "1"), tried)


def test_two_retries_are_the_default(clients: Clients) -> None:
    """Istio's."""
    clients.mesh.apply(routed())
    clients.agree(("UNAVAILABLE", "3"), tried)


@pytest.mark.parametrize(
    ("abort", "code"),
    [
        ("grpcStatus: ABORTED", "ABORTED"),
        ("httpStatus: 503", "UNAVAILABLE"),
        ("httpStatus: 404", "UNIMPLEMENTED"),
        ("httpStatus: 500", "UNKNOWN"),
    ],
)
def test_an_injected_abort_ends_the_call(clients: Clients, abort: str, code: str) -> None:
    """For those whom it is meant for. An HTTP status is gRPC's translation of it."""
    fault = f"fault: {{abort: {{{abort}, percentage: {{value: 100}}}}}}"
    clients.mesh.apply(routed(f"match: [{{headers: {{end-user: {{exact: jason}}}}}}]\n    {fault}\n    {V2}"))
    clients.agree((code, "v1"), lambda caller: (caller.one(end_user="jason")["code"], version(caller.one())))


def test_an_injected_delay_is_waited_for(clients: Clients) -> None:
    """300 ms, and the call succeeds."""
    fault = "fault: {delay: {fixedDelay: 300ms, percentage: {value: 100}}}"
    clients.mesh.apply(routed(f"match: [{{headers: {{end-user: {{exact: jason}}}}}}]\n    {fault}\n    {V2}"))
    clients.agree(("v2", True), lambda caller: (one := caller.one(end_user="jason"), (version(one), one["seconds"] >= 0.3))[1])


def timed_out(found: JSON) -> bool:
    """Inside a process that is gRPC's own code; a sidecar answers 504, which is UNAVAILABLE in gRPC's translation."""
    sidecars = found["code"] == "UNAVAILABLE" and found["details"] == "upstream request timeout"
    return found["code"] == "DEADLINE_EXCEEDED" or sidecars


def test_a_timeout_ends_the_call_and_never_too_early(clients: Clients) -> None:
    """After 1 s, and for grpcio, whose clock is coarse, up to 1 s later."""
    clients.mesh.apply(routed(f"timeout: 1s\n    match: [{{uri: {{prefix: /}}}}]\n    {V2}"))
    clients.agree(
        (True, True), lambda caller: (one := caller.one(x_sleep="4"), (timed_out(one), 0.95 <= one["seconds"] < 2.5))[1]
    )


def test_under_strict_every_call_proves_who_calls(clients: Clients) -> None:
    """Nobody is told to use mutual TLS; all do. Who cannot is refused."""
    clients.mesh.apply(STRICT)
    clients.agree(
        ("OK", "spiffe://cluster.local/ns/default/sa/client"),
        lambda caller: (one := caller.one(), (one["code"], one.get("peer", "")))[1],
    )
    port = next(row["ports"][0]["targetPort"] for row in clients.mesh.proxies() if row["name"] == "reviews-v1")
    stranger = clients.mesh.caller("stranger", "plain", "sync", f"127.0.0.1:{port}")
    assert stranger.one(timeout=5)["code"] == "UNAVAILABLE"


def test_who_comes_is_called_and_who_goes_is_not(clients: Clients) -> None:
    """A third endpoint appears, is used, and is gone again; no call fails while it comes."""
    everybody, first_two = {"v1", "v2", "v3"}, {"v1", "v2"}
    clients.mesh.service("reviews-v3", "v3", engine="engine")
    clients.mesh.settle()
    clients.agree(everybody, lambda caller: {version(one) for one in caller.call(count=40)})
    clients.mesh.stop("reviews-v3")
    eventually(lambda: all(row["name"] != "reviews-v3" for row in clients.mesh.proxies()), "its stream ended")
    clients.mesh.settle()
    clients.agree(first_two, lambda caller: {version(one) for one in caller.call(count=40)})


def test_certificates_are_replaced_while_calls_go_on(tmp_path: Path) -> None:
    """Under STRICT, with lives of a few seconds on both sides, and a server that starts anew so that all shake hands again."""
    short = {"MESHLIB_CERTIFICATE_LIFETIME": str(LIFE)}
    with grpc_mesh(tmp_path) as mesh, sidecar(mesh.plane, tmp_path, account="client") as envoy:
        mesh.apply(STRICT)
        mesh.service("reviews-v1", "v1", engine="engine", **short)
        callers = {engine: mesh.caller(engine, engine, **short) for engine in ("engine", "native")}
        callers["envoy"] = mesh.caller("plain", "plain", "sync", f"127.0.0.1:{envoy.ports[9080]}=reviews:9080")
        clients = Clients(mesh, callers)
        ends = time.monotonic() + 1.5 * LIFE  # beyond the end of every first certificate
        while time.monotonic() < ends:
            clients.agree("OK", lambda caller: caller.one()["code"])
            envoy.rotate()
            time.sleep(0.5)
        mesh.stop("reviews-v1")
        mesh.service("reviews-v1", "v1", engine="engine", **short)
        mesh.settle()
        clients.agree("OK", lambda caller: caller.one()["code"])


def allowing(account: str) -> str:
    """Only one account may call, and only one method."""
    return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: callers}}
spec:
  action: ALLOW
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/{account}]}}}}]
    to: [{{operation: {{paths: [/test.Reviews/Say]}}}}]
---
"""


DENYING = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: bad}
spec:
  action: DENY
  rules:
  - when: [{key: "request.headers[x-bad]", values: ["yes*"]}]
---
"""


def test_policies_allow_and_deny_alike(tmp_path: Path) -> None:
    """Three kinds of client, three kinds of server: who may call is answered, who may not gets PERMISSION_DENIED."""
    with grpc_mesh(tmp_path) as mesh, ExitStack() as closing:
        mesh.apply(STRICT + "---\n" + allowing("client"))
        envoy = closing.enter_context(sidecar(mesh.plane, tmp_path, account="client"))
        closing.enter_context(server_behind_envoy(mesh, tmp_path))
        for engine in ("engine", "native"):
            mesh.service(engine, engine, engine=engine)
        clients = Clients(mesh, callers_of(mesh, envoy.ports[9080]))
        everybody = {"engine", "native", "behind"}
        clients.agree(everybody, lambda caller: {one.get("who") for one in caller.call(count=12)})
        mesh.apply(allowing("somebody-else"))
        clients.agree({"PERMISSION_DENIED"}, lambda caller: {one["code"] for one in caller.call(count=12)})
        mesh.apply(allowing("client") + DENYING)
        clients.agree({"PERMISSION_DENIED"}, lambda caller: {one["code"] for one in caller.call(count=12, x_bad="yes!")})
        clients.agree({"OK"}, lambda caller: {one["code"] for one in caller.call(count=12, x_bad="no")})


def test_the_root_is_replaced_while_calls_go_on(tmp_path: Path) -> None:
    """Three kinds of client call three kinds of server under STRICT, through all steps, and no call fails.

    A fourth server starts anew in each step, so that all shake hands with certificates of that step.
    """
    short = {"MESHLIB_CERTIFICATE_LIFETIME": str(LIFE)}
    with grpc_mesh(tmp_path) as mesh, ExitStack() as closing:
        mesh.apply(STRICT)
        before = root_of(mesh)
        envoy = closing.enter_context(sidecar(mesh.plane, tmp_path, account="client", lifetime=LIFE))
        closing.enter_context(envoy.keeping())
        closing.enter_context(server_behind_envoy(mesh, tmp_path))
        for engine in ("engine", "native"):
            mesh.service(engine, engine, engine=engine, **short)
        clients = Clients(mesh, callers_of(mesh, envoy.ports[9080], **short))
        clients.agree({"engine", "native", "behind"}, everybody_who_answers)

        mesh.rotate()
        phases = [mesh.authority()["phase"]]
        while phases[-1] != "steady":
            name = f"anew-{len(phases)}"
            mesh.service(name, "anew", engine="engine", **short)
            mesh.settle()
            eventually(partial(everybody_calls, clients, name), f"{name} is called")
            eventually(partial(is_beyond, clients, phases[-1]), f"the step after {phases[-1]}", 4 * LIFE)
            phases.append(mesh.authority()["phase"])
            mesh.stop(name)
        assert phases == ["distributing", "retiring", "steady"]
        assert root_of(mesh) != before
        eventually(partial(everybody_calls, clients, "native"), "the first server of grpcio is called")
        assert mesh.rejected() == []


@contextmanager
def server_behind_envoy(mesh: GrpcMesh, folder: Path, lifetime: int = LIFE) -> Iterator[Sidecar]:
    """A service that knows of no mesh, and the sidecar before it."""
    port = free_port()
    process, log = mesh.start(
        "behind", "grpc_service.py", "plain", f"127.0.0.1:{port}", env={**os.environ, "MESHLIB_INSTANCE": "behind"}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n", log.read_text()
    before = sidecar(
        mesh.plane,
        folder,
        name="reviews",
        service="reviews",
        port=9080,
        local_port=port,
        protocol="grpc",
        ports=(),
        lifetime=lifetime,
    )
    with before as envoy, envoy.keeping():
        yield envoy


def root_of(mesh: GrpcMesh) -> str:
    (root,) = mesh.authority()["roots"]
    return str(root["fingerprint"])


def whom(caller: Caller) -> set[str]:
    """Who answers. A call that fails ends the test: this is no place to try again."""
    found = caller.call(count=12)
    assert {one["code"] for one in found} == {"OK"}, found
    return {str(one["who"]) for one in found}


def everybody_calls(clients: Clients, name: str) -> bool:
    """Whether a server is among those who answer each client."""
    answered = [name in whom(caller) for caller in clients.callers.values()]  # all call, whatever the first one finds
    return all(answered)


def is_beyond(clients: Clients, phase: str) -> bool:
    """Whether the replacement of the root has got further, while everybody calls."""
    return everybody_calls(clients, "engine") and clients.mesh.authority()["phase"] != phase


def test_under_a_plugged_in_authority_revoked_servers_are_avoided(tmp_path: Path) -> None:
    """All three kinds accept its chains. The library and Envoy look up what is revoked; grpcio cannot (docs/security.md)."""
    root = made("Root CA", kind="rsa")
    signs = root.below("Intermediate CA", kind="rsa")
    folder = write(tmp_path / "cacerts", signs, roots=(root,))
    with grpc_mesh(tmp_path, cacerts=folder) as mesh, ExitStack() as closing:
        mesh.apply(STRICT)
        envoy = closing.enter_context(sidecar(mesh.plane, tmp_path, account="client"))
        behind = closing.enter_context(server_behind_envoy(mesh, tmp_path, 86400))
        mesh.service("engine", "engine", engine="engine")
        clients = Clients(mesh, callers_of(mesh, envoy.ports[9080]))
        clients.agree({"engine", "behind"}, everybody_who_answers)
        shown = x509.load_pem_x509_certificates(behind.certificates.chain.read_bytes())
        assert shown[1:] == [signs.certificate]

        write(folder, signs, roots=(root,), revoked=signs.revocations(shown[0].serial_number))
        # An Envoy that was not there before: nobody ends connections that stand, and Envoy's live on.
        late = closing.enter_context(sidecar(mesh.plane, tmp_path, name="late", account="client"))
        callers = {name: one for name, one in clients.callers.items() if name.startswith("engine")}
        callers["envoy"] = mesh.caller("late-plain", "plain", "sync", f"127.0.0.1:{late.ports[9080]}=reviews:9080")
        looking = Clients(mesh, callers)
        looking.agree({"engine"}, everybody_who_answers)
        write(folder, signs, roots=(root,), revoked=signs.revocations())
        looking.agree({"engine", "behind"}, everybody_who_answers)


def everybody_who_answers(caller: Caller) -> set[Any]:
    """On connections of now: each of the kinds closes those of an older generation when they are idle."""
    return {one.get("who") for one in caller.call(count=12)}
