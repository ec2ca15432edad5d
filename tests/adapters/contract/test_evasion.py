"""Requests that try to be judged as one thing and served as another; the same answers from every server. Real processes."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any

import pytest

from meshlib.config.policy import EscapedSlashes, Normalization
from tests.support.pki import spiffe
from tests.support.rbac import ANY, rules
from tests.support.server_process import COMMANDS, DEADLINE, KEEPS_ALIVE, ServerProcess, ask_on

BASE = Normalization(normalize=True)
MERGED = Normalization(normalize=True, merge_slashes=True)
DECODED = Normalization(normalize=True, merge_slashes=True, escaped_slashes=EscapedSlashes.FORWARD)
WHO = {"url_path": {"path": {"exact": "/who"}}}


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def running(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp(kind), COMMANDS[kind])
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server(running: ServerProcess) -> ServerProcess:
    """Without any rule."""
    running.mode("PERMISSIVE")
    running.paths(BASE)
    running.policy()
    return running


def only(server: ServerProcess, action: str, permission: dict[str, Any], principal: dict[str, Any] = ANY) -> None:
    """One rule."""
    server.policy({"rules": rules(action, one=(permission, principal))})


def status_of(server: ServerProcess, request: bytes) -> int:
    """The status that a request gets, which is sent exactly as it is written; 0: the connection was closed."""
    with server.raw() as connection:
        connection.settimeout(DEADLINE)
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
        except (http.client.HTTPException, ConnectionResetError):
            return 0
        return response.status


@pytest.mark.parametrize(
    "target", ["/who", "/%77ho", "/./who", "/x/../who", "/x/%2e%2E/who", "\\who", "/who?x=1", "http://reviews/who", "/who#x"]
)
def test_a_path_cannot_be_written_past_a_rule(server: ServerProcess, target: str) -> None:
    """All of these are /who to a rule; a server may refuse what is no request line."""
    only(server, "DENY", WHO)
    request = f"GET {target} HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n"
    assert status_of(server, request.encode()) in {403, 400, 404}
    assert server.ask("/download?n=3").status == 200


@pytest.mark.parametrize("target", ["/%2577ho", "//who", "/who/", "/who;x", "/x/%252e%252e/who"])
def test_what_a_rule_does_not_mean_is_not_served_as_if(server: ServerProcess, target: str) -> None:
    """A path is decoded once: the application, which has no such path and fails, is not called with /who.

    Werkzeug takes the first of two slashes away before anybody sees them: a rule, too.
    """
    only(server, "DENY", WHO)
    request = f"GET {target} HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n"
    assert status_of(server, request.encode()) in ({403, 500} if target == "//who" else {500})


@pytest.mark.parametrize(
    ("how", "target"),
    [(MERGED, "//who"), (MERGED, "/x/..//who"), (DECODED, "/x%2f..%2Fwho"), (DECODED, "/%5Cwho"), (DECODED, "/%2f%2Fwho")],
)
def test_rule_and_application_see_the_path_as_the_mesh_normalizes_it(
    server: ServerProcess, how: Normalization, target: str
) -> None:
    """MERGE_SLASHES and DECODE_AND_MERGE_SLASHES: what is judged as /who is served as /who."""
    request = f"GET {target} HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n".encode()
    server.paths(how)
    only(server, "ALLOW", WHO)
    assert status_of(server, request) == 200
    only(server, "DENY", WHO)
    assert status_of(server, request) == 403


def test_a_path_that_nobody_normalizes_is_served_as_it_is_judged(server: ServerProcess) -> None:
    """NONE: /x/../who is no /who, neither for a rule nor for the application, which has no such path and fails."""
    request = b"GET /x/../who HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n"
    server.paths(Normalization())
    only(server, "ALLOW", WHO)
    assert status_of(server, request) == 403
    only(server, "DENY", WHO)
    assert status_of(server, request) == 500


def test_a_client_cannot_take_a_prefix_off_its_path(server: ServerProcess) -> None:
    """gunicorn does it for a header of its neighbours: judged as /public/who, the application would be called with /who."""
    only(server, "ALLOW", {"url_path": {"path": {"prefix": "/public/"}}})
    request = "GET /public/who HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n{}\r\n"
    headers = "SCRIPT_NAME: /public\r\nX-Script-Name: /public\r\nX-Forwarded-Prefix: /public\r\nX-Original-URL: /who\r\n"
    assert status_of(server, request.format("").encode()) == 500  # the application has no such path
    assert status_of(server, request.format(headers).encode()) == 500
    assert server.ask("/who", headers={"SCRIPT_NAME": ""}).status == 403


def test_rule_and_application_see_the_same_host(server: ServerProcess) -> None:
    """A target that names its host counts, not Host; two Hosts are none."""
    only(server, "DENY", {"header": {"name": ":authority", "string_match": {"exact": "secret"}}})
    close = "Connection: close\r\n\r\n"
    assert status_of(server, f"GET /who HTTP/1.1\r\nHost: secret\r\n{close}".encode()) == 403
    assert status_of(server, f"GET http://secret/who HTTP/1.1\r\nHost: reviews\r\n{close}".encode()) == 403
    assert status_of(server, f"GET http://joe@secret/who HTTP/1.1\r\nHost: reviews\r\n{close}".encode()) in {403, 400}
    for host in ("secret/", "secret#", "sec\u00adret", "secret x", "http://secret"):
        assert status_of(server, f"GET /who HTTP/1.1\r\nHost: {host}\r\n{close}".encode()) == 400
    assert status_of(server, f"GET /who HTTP/1.1\r\nHost: reviews\r\nHost: secret\r\n{close}".encode()) == 400
    with server.connect(tls=False) as connection:
        assert ask_on(connection, "http://reviews/who", headers={"Host": "secret"}).json()["host"] == "reviews"


def test_an_old_version_of_http_is_judged_too(server: ServerProcess) -> None:
    """HTTP/1.0, with a Host or without."""
    only(server, "DENY", WHO)
    assert status_of(server, b"GET /who HTTP/1.0\r\nHost: reviews\r\n\r\n") == 403
    assert status_of(server, b"GET /who HTTP/1.0\r\n\r\n") in {400, 403}


def test_a_request_without_a_host_is_refused(server: ServerProcess) -> None:
    """By every server alike: otherwise it had the name of the server's address for policies, and none for the application."""
    only(server, "ALLOW", WHO)
    assert status_of(server, b"GET /who HTTP/1.1\r\nConnection: close\r\n\r\n") == 400
    assert status_of(server, b"GET http://reviews?/who HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n") in {400, 404}


def test_a_header_with_underscores_is_another_one(server: ServerProcess) -> None:
    """Who shows X_Token has not shown x-token."""
    only(server, "ALLOW", {"header": {"name": "x-token", "string_match": {"exact": "admin"}}})
    assert server.ask("/who", headers={"x-token": "admin"}).status == 200
    assert server.ask("/who", headers={"X_Token": "admin"}).status == 403


def test_what_connection_names_is_not_there(server: ServerProcess) -> None:
    """Neither for a rule nor for the application; where a request came from cannot be hidden in this way."""
    request = "GET /who HTTP/1.1\r\nHost: reviews\r\nX-Token: admin\r\nConnection: close, {}\r\n\r\n"
    only(server, "ALLOW", {"header": {"name": "x-token", "string_match": {"exact": "admin"}}})
    assert status_of(server, request.format("x-other").encode()) == 200
    assert status_of(server, request.format("X-Token").encode()) == 403
    assert status_of(server, request.format("x-forwarded-for").encode()) == 400


def test_upgrades_and_tunnels_that_nobody_offers_are_refused(server: ServerProcess) -> None:
    """But for h2c, an offer that may be passed over."""
    only(server, "ALLOW", ANY)
    upgrade = "GET /who HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: {}\r\n\r\n"
    assert status_of(server, upgrade.format("tunnel").encode()) == 403
    assert status_of(server, upgrade.format("h2c").encode()) == 200
    assert status_of(server, b"CONNECT /who HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n") in {400, 0}


def test_methods_are_compared_as_written(server: ServerProcess) -> None:
    """HEAD is not GET, and no header makes another method of it."""
    only(server, "ALLOW", {"header": {"name": ":method", "string_match": {"exact": "GET"}}})
    assert server.ask("/who").status == 200
    assert server.ask("/who", method="HEAD").status == 403
    assert server.ask("/who", method="POST", headers={"X-HTTP-Method-Override": "GET"}).status == 403


def test_a_caller_cannot_name_another_address_or_identity(server: ServerProcess) -> None:
    """source.ip is the connection's, whatever the headers that servers believe of their neighbours."""
    told = {"X-Forwarded-For": "10.9.9.9", "Forwarded": "for=10.9.9.9", "X-Real-IP": "10.9.9.9"}
    only(server, "DENY", ANY, {"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}})
    assert server.ask("/who", tls=False, headers=told).status == 403
    assert server.ask("/who", headers=told).status == 403

    only(server, "ALLOW", ANY, {"authenticated": {"principal_name": {"exact": spiffe("productpage")}}})
    named = {"X-Forwarded-Client-Cert": f"URI={spiffe('productpage')}", "X-SSL-Client-Cert": "x", "REMOTE_USER": "x"}
    assert server.ask("/who", tls=False, headers=named).status == 403


def test_a_kept_connection_obeys_the_newest_policy(server: ServerProcess, kind: str) -> None:
    """Each request is judged for itself, by what holds when it comes."""
    if kind not in KEEPS_ALIVE:  # no connection lives that long
        assert server.ask("/who", tls=False).headers["connection"] == "close"
        return
    with server.connect(tls=True) as connection:
        assert ask_on(connection, "/who").status == 200
        only(server, "DENY", WHO)
        assert ask_on(connection, "/who").status == 403
    with server.connect(tls=True) as connection:
        server.policy()
        assert ask_on(connection, "/who").status == 200


def test_strict_after_disable_holds_on_open_connections(server: ServerProcess, kind: str) -> None:
    """A connection that was accepted when nobody had to prove anything proves nothing now."""
    server.mode("DISABLE")
    if kind not in KEEPS_ALIVE:
        assert server.ask("/who", tls=False).headers["connection"] == "close"
        return
    with server.connect(tls=False) as connection:
        assert ask_on(connection, "/who").status == 200
        server.mode("STRICT")
        assert ask_on(connection, "/who").status == 403
