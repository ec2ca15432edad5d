"""A real authorizer by gRPC and HTTP, as Istio's sample: `x-ext-authz: allow` lets in. `x-case` asks for another answer."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from meshlib.config.messages import from_json, message
from meshlib.runtime.ext_authz import METHOD

Json = dict[str, Any]
CASE = "x-case"
DENIED = "denied by ext_authz for not found header `x-ext-authz: allow` in the request"
RESULT = "x-ext-authz-check-result"
SLOW = 1.5
"""Seconds that the answer to `x-case: slow` takes."""


@dataclass
class Authorizer:
    """Where it listens, and what it was asked.

    Args:
        grpc_cases, http_cases: odd answers, by the number that `x-case` says.
    """

    grpc_cases: Sequence[Json] = ()
    http_cases: Sequence[tuple[int, Sequence[tuple[str, str]], str]] = ()
    grpc_port: int = 0
    http_port: int = 0
    checks: list[Any] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def check(self, request: Any) -> Any:
        """The answer to a CheckRequest."""
        self.checks.append(request)
        headers = request.attributes.request.http.headers
        case = headers.get(CASE, "")
        if case == "slow":
            time.sleep(SLOW)
        if case.isdigit():
            return from_json("envoy.service.auth.v3.CheckResponse", self.grpc_cases[int(case) % len(self.grpc_cases)])
        if headers.get("x-ext-authz") == "allow":
            return from_json("envoy.service.auth.v3.CheckResponse", _grpc("ok_response", 0, "allowed"))
        return from_json("envoy.service.auth.v3.CheckResponse", _grpc("denied_response", 7, "denied"))

    def answer(self, headers: dict[str, str]) -> tuple[int, Sequence[tuple[str, str]], str]:
        """The answer to an HTTP request."""
        case = headers.get(CASE, "")
        if case == "slow":
            time.sleep(SLOW)
        if case.isdigit():
            return self.http_cases[int(case) % len(self.http_cases)]
        allowed = headers.get("x-ext-authz") == "allow"
        return (200, [(RESULT, "allowed")], "") if allowed else (403, [(RESULT, "denied")], DENIED)


def _grpc(kind: str, code: int, result: str) -> Json:
    headers = [{"header": {"key": RESULT, "value": result}}]
    more = {"status": {"code": 403}, "body": DENIED} if code else {}
    return {"status": {"code": code}, kind: {"headers": headers, **more}}


@contextlib.contextmanager
def running(authorizer: Authorizer) -> Iterator[Authorizer]:
    """Serve it on two free ports."""
    server = grpc.server(ThreadPoolExecutor(8))
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, _context: authorizer.check(request),
        message("envoy.service.auth.v3.CheckRequest").FromString,
        message("envoy.service.auth.v3.CheckResponse").SerializeToString,
    )
    service, _, name = METHOD[1:].partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    authorizer.grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    over = threading.Event()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(authorizer, over))
    authorizer.http_port = web.server_port
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield authorizer
    finally:
        over.set()
        server.stop(None).wait()
        web.shutdown()
        web.server_close()


def _handler(authorizer: Authorizer, over: threading.Event) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            if over.is_set():  # somebody kept the connection
                self.close_connection = True
                return
            asked = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): ",".join(self.headers.get_all(name) or ()) for name in self.headers}
            authorizer.requests.append((self.command, self.path, headers, asked))
            status, told, body = authorizer.answer(headers)
            self.send_response_only(status)
            for name, value in told:
                self.send_header(name, value)
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked waits no longer
                self.wfile.write(body.encode())

        do_GET = do_POST = _any  # noqa: N815  # named by http.server

        def log_message(self, *_: object) -> None:
            pass

    return Handler
