"""The one contract of all servers: what a port of the mesh does, whoever serves it. Real processes, real TLS."""

from __future__ import annotations

import hashlib
import http.client
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.pki import Authority, spiffe
from tests.support.rbac import rules
from tests.support.server_mesh import GOODBYE
from tests.support.server_process import ASGI, COMMANDS, DEADLINE, KEEPS_ALIVE, ServerProcess, ask_on, until

MEGABYTES_20 = 20 * 1024 * 1024


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
    running.mode("PERMISSIVE")
    running.policy()
    return running


def test_permissive_serves_plain_text(server: ServerProcess) -> None:
    """A caller outside the mesh is served and has no identity."""
    answer = server.ask("/who", tls=False)
    assert answer.status == 200
    assert answer.json()["peer"] == ""
    assert answer.json()["xfcc"] is None


def test_permissive_serves_mutual_tls_on_the_same_port(server: ServerProcess) -> None:
    """The caller's SPIFFE id is known to the application, and its certificate is in x-forwarded-client-cert."""
    seen = server.ask("/who").json()
    assert seen["peer"] == spiffe("productpage")
    fields = dict(part.split("=", 1) for part in seen["xfcc"].split(";"))
    assert (fields["By"], fields["Subject"], fields["URI"]) == (spiffe("reviews"), '""', spiffe("productpage"))
    assert len(fields["Hash"]) == 64


def test_the_application_sees_http_behind_mutual_tls(server: ServerProcess) -> None:
    """As behind a sidecar: a redirect to https would leave the mesh."""
    assert server.ask("/who").json()["scheme"] == "http"


def test_strict_closes_plain_text_without_an_answer(server: ServerProcess) -> None:
    """Istio: the connection ends, no HTTP response (curl: 52 or 56)."""
    server.mode("STRICT")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        server.ask("/who", tls=False)
    assert server.ask("/who", tls=True).status == 200


def test_disable_refuses_mutual_tls(server: ServerProcess) -> None:
    """The port speaks plain text only."""
    server.mode("DISABLE")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        server.ask("/who", tls=True)
    assert server.ask("/who", tls=False).status == 200


def test_a_keep_alive_connection_does_not_outlive_strict(server: ServerProcess, kind: str) -> None:
    """A plain connection made before is answered 403 and closed: its second request is denied."""
    if kind not in KEEPS_ALIVE:  # no connection lives that long
        assert server.ask("/who", tls=False).headers["connection"] == "close"
        return
    with server.connect(tls=False) as connection:
        assert ask_on(connection, "/who").status == 200
        server.mode("STRICT")
        assert ask_on(connection, "/who").status == 403


def test_a_stranger_with_another_authority_is_refused(server: ServerProcess) -> None:
    """Only certificates of the mesh's authority enter."""
    other = Authority("other root")
    context = other.client_context(other.issue("productpage"))
    context.load_verify_locations(cadata=server.authority.root.decode())
    with pytest.raises((ssl.SSLError, OSError, http.client.RemoteDisconnected)):  # noqa: SIM117  # the raise is in either
        with server.connect(tls=True, context=context) as connection:
            ask_on(connection, "/who")


def test_a_certificate_that_names_no_workload_is_refused(server: ServerProcess) -> None:
    """The authority vouches for it, but it is nobody."""
    context = server.authority.client_context(server.authority.issue(uri=""))
    with pytest.raises((ssl.SSLError, OSError, http.client.RemoteDisconnected)):  # noqa: SIM117  # the raise is in either
        with server.connect(tls=True, context=context) as connection:
            ask_on(connection, "/who")


@pytest.mark.parametrize("name", ["x-forwarded-client-cert", "X_Forwarded_Client_Cert", "x-meshlib-peer"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_client_cannot_forge_what_the_mesh_says(server: ServerProcess, name: str, tls: bool) -> None:
    """Whatever it sends under these names, the application sees the mesh's word or nothing."""
    seen = server.ask("/who", tls=tls, headers={name: "URI=spiffe://cluster.local/ns/default/sa/admin"}).json()
    assert "admin" not in f"{seen['xfcc']}{seen['withheld']}{seen['peer']}"


PRODUCTPAGE_READS = {
    "rules": rules(
        "ALLOW",
        reads=(
            {"url_path": {"path": {"exact": "/who"}}},
            {"authenticated": {"principal_name": {"exact": spiffe("productpage")}}},
        ),
    )
}


def test_a_policy_decides_who_enters(server: ServerProcess) -> None:
    """Who is not allowed gets Envoy's words, and the event Envoy's response code details."""
    server.policy(PRODUCTPAGE_READS)
    assert server.ask("/who").status == 200
    refused = server.ask("/who", tls=False, headers={"x-request-id": "refused"})
    assert (refused.status, refused.body) == (403, b"RBAC: access denied")
    event = server.event(request_id="refused")
    assert (event["status"], event["flags"]) == (403, "-")
    assert event["detail"] == "rbac_access_denied_matched_policy[none]"


def test_policy_and_application_see_the_same_path(server: ServerProcess) -> None:
    """However it is written, it is normalized before it is decided on and before the application is called."""
    server.policy(PRODUCTPAGE_READS)
    assert server.ask("/other/..;x/%77ho").json()["peer"] == spiffe("productpage")
    assert server.ask("/who/../slow").status == 403
    assert server.ask("/who%00").status == 400


def test_a_denied_request_is_named_by_its_policy(server: ServerProcess) -> None:
    """DENY with the first policy that holds."""
    server.policy({"rules": rules("DENY", nobody=({"any": True}, {"header": {"name": "x-bad", "present_match": True}}))})
    assert server.ask("/who").status == 200
    assert server.ask("/who", headers={"x-bad": "", "x-request-id": "bad"}).status == 403
    assert server.event(request_id="bad")["detail"] == "rbac_access_denied_matched_policy[nobody]"


def test_context_is_set_and_reset(server: ServerProcess) -> None:
    """Each request has its own; around the middleware, and in the next request of a thread, nothing is left."""
    seen = [server.ask("/who", headers={"x-request-id": f"id-{turn}"}).json() for turn in range(6)]
    assert [one["context"] for one in seen] == [f"id-{turn}" for turn in range(6)]
    assert {one["outside"] for one in seen} == {""}


@pytest.mark.parametrize("headers", [{}, {"x-request-id": ""}])
def test_a_request_without_id_gets_one(server: ServerProcess, headers: dict[str, str]) -> None:
    """As from Envoy: x-request-id is in the headers and equals the context's; an empty one is none."""
    seen = server.ask("/who", headers=headers).json()
    assert seen["request_id"]
    assert seen["request_id"] == seen["context"]


def test_an_event_is_told_for_each_request(server: ServerProcess) -> None:
    """Who asked what, how it ended, how many bytes went."""
    answer = server.ask("/who?told", headers={"x-request-id": "told-1"})
    event = server.event(request_id="told-1")
    assert (event["status"], event["flags"], event["method"], event["path"]) == (200, "-", "GET", "/who?told")
    assert (event["peer"], event["secured"], event["sent"]) == (spiffe("productpage"), True, len(answer.body))
    assert event["duration"] > 0


def test_an_exception_of_the_application_is_told_as_500(server: ServerProcess) -> None:
    """And answered so by the server."""
    assert server.ask("/boom", headers={"x-request-id": "boom-1"}).status == 500
    assert server.event(request_id="boom-1")["status"] == 500


def test_a_client_that_leaves_is_told(server: ServerProcess) -> None:
    """Status 0, flag DC, as Envoy's access log has it; and the server goes on."""
    with server.connect(tls=True) as connection:
        connection.request("GET", f"/download?n={4 * MEGABYTES_20}", headers={"x-request-id": "left-1"})
        assert connection.getresponse().read(1000)
    event = server.event(request_id="left-1")
    assert (event["status"], event["flags"]) == (0, "DC")
    assert server.ask("/who").status == 200


def test_a_client_that_leaves_before_the_answer_is_told(server: ServerProcess, kind: str) -> None:
    """An event loop notices while the application works; a blocking server may only notice that it cannot write."""
    with server.connect(tls=True) as connection:
        connection.request("GET", "/slow?n=500", headers={"x-request-id": "left-2"})
        time.sleep(0.1)
    flags = server.event(request_id="left-2")["flags"]
    assert flags in ({"DC"} if kind in ASGI else {"DC", "-"})


@pytest.mark.parametrize("tls", [False, True])
def test_a_large_upload_arrives_whole(server: ServerProcess, tls: bool) -> None:
    """20 MiB, byte for byte."""
    body = bytes(range(256)) * (MEGABYTES_20 // 256)
    answer = server.ask("/upload", tls=tls, method="POST", body=body)
    assert answer.body.decode() == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("tls", [False, True])
def test_a_large_download_arrives_whole_at_a_slow_reader(server: ServerProcess, tls: bool) -> None:
    """20 MiB to a client that pauses first: the socket is full and the application waits."""
    with server.connect(tls=tls) as connection:
        connection.request("GET", f"/download?n={MEGABYTES_20}")
        response = connection.getresponse()
        time.sleep(0.3)
        assert len(response.read()) == MEGABYTES_20


def test_a_connection_is_kept_alive(server: ServerProcess, kind: str) -> None:
    """Twenty requests over one handshake."""
    if kind not in KEEPS_ALIVE:  # no connection lives that long
        assert server.ask("/who", tls=False).headers["connection"] == "close"
        return
    with server.connect(tls=True) as connection:
        ports = set()
        for _ in range(20):
            assert ask_on(connection, "/who").json()["peer"] == spiffe("productpage")
            ports.add(connection.sock.getsockname())
    assert len(ports) == 1


def test_a_silent_client_is_cut_off(server: ServerProcess) -> None:
    """Connecting and saying nothing holds nothing for long, and others are served meanwhile or at once afterwards."""
    with server.raw() as silent:
        assert silent.recv(1) == b""
    assert server.ask("/who").status == 200


def test_a_client_that_stops_in_its_handshake_is_cut_off(server: ServerProcess) -> None:
    """A record header that promises more is not enough to stay."""
    with server.raw() as slow:
        slow.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert slow.recv(1) == b""
    assert server.ask("/who").status == 200


def test_noise_after_the_first_byte_is_refused(server: ServerProcess) -> None:
    """0x16 followed by nonsense ends with an alert or nothing; the server goes on."""
    with server.raw() as noisy:
        noisy.sendall(b"\x16" + b"nonsense" * 10)
        data = b""
        try:
            while chunk := noisy.recv(1000):
                data += chunk
        except ConnectionResetError:
            pass
    assert not data.startswith(b"HTTP")
    assert server.ask("/who").status == 200


def test_certificates_change_under_load_without_a_failure(server: ServerProcess) -> None:
    """Four clients with new connections all the time, five new certificates: no request fails, all five are seen."""
    shown: set[bytes] = set()
    failures: list[str] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                with server.connect(tls=True) as connection:
                    assert ask_on(connection, "/who").status == 200
            except OSError as error:
                failures.append(repr(error))

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    for _ in range(5):
        server.renew()
        with server.connect(tls=True) as connection:
            connection.connect()
            assert isinstance(connection.sock, ssl.SSLSocket)
            shown.add(connection.sock.getpeercert(binary_form=True) or b"")
    stop.set()
    for client in clients:
        client.join()
    assert failures == []
    assert len(shown) == 5


def test_the_server_announces_its_port_after_it_joined(server: ServerProcess) -> None:
    """In the process that serves: start, then serve with the real port."""
    assert server.port > 0
    served = {path.stem for path in server.left("served")}
    assert served
    assert served <= {path.stem for path in server.left("started")}


@pytest.mark.parametrize("kind", sorted(COMMANDS.keys() - {"werkzeug"}))  # a development server: it dies at once
def test_a_server_that_is_told_to_end_serves_until_clients_moved_away(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The registration is taken back first; new connections are still answered, kept ones are told to close."""
    server = ServerProcess(tmp_path_factory.mktemp(f"end-{kind}"), COMMANDS[kind])
    with server.connect(tls=True) as kept:
        assert ask_on(kept, "/who").status == 200
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        (note,) = until(lambda: server.left("withdrawn"), "withdrawal")
        assert note.read_text() == str(server.port)
        assert server.ask("/who").status == 200
        if kind in ASGI:
            assert ask_on(kept, "/who").headers["connection"] == "close"
    assert server.process.wait(DEADLINE) is not None
    server.log.close()
    assert time.monotonic() - begin > GOODBYE * 0.9


def test_a_server_in_a_hurry_does_not_wait(tmp_path_factory: pytest.TempPathFactory) -> None:
    """gunicorn's SIGQUIT: clients are told, that is all."""
    server = ServerProcess(tmp_path_factory.mktemp("quit"), COMMANDS["gunicorn-sync"])
    assert server.ask("/who").status == 200
    begin = time.monotonic()
    server.process.send_signal(signal.SIGQUIT)
    server.process.wait(DEADLINE)
    server.log.close()
    assert time.monotonic() - begin < GOODBYE
    assert server.left("withdrawn")


def test_a_server_stops_when_asked(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With an idle mutual TLS connection and a silent one open; a request in flight is answered first."""
    server = ServerProcess(tmp_path_factory.mktemp(f"stop-{kind}"), COMMANDS[kind])
    assert server.ask("/who").status == 200
    if kind == "werkzeug":  # a development server: it dies with its requests
        server.stop()
        return
    answers: list[int] = []
    flight = threading.Thread(target=lambda: answers.append(server.ask("/slow?n=700").status))
    flight.start()
    time.sleep(0.3)
    silent = server.raw() if kind in ASGI else socket.socket()
    with silent:
        server.stop()
    flight.join()
    assert answers == [200]
    assert until(lambda: server.left("closed"), "closed mesh")
