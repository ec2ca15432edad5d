import ssl

import pytest

from meshlib.runtime.tls import TlsLayer
from tests.support.pki import ALPN, Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def pair(authority: Authority, other: Authority | None = None) -> tuple[TlsLayer, TlsLayer]:
    client = TlsLayer((other or authority).client_context(authority.issue("client")), server_side=False, server_hostname="a.b")
    server = TlsLayer(authority.server_context(authority.issue("reviews")), server_side=True)
    return client, server


def shake(client: TlsLayer, server: TlsLayer) -> None:
    data = client.start()
    while not (client.established and server.established):
        server.receive(data)
        client.receive(server.pending())
        data = client.pending()


def test_both_sides_meet_and_know_each_other(authority: Authority) -> None:
    """After the handshake both are established, agree on Istio's ALPN and hold the other's certificate."""
    client, server = pair(authority)
    shake(client, server)
    assert client.alpn == server.alpn == ALPN[0]
    assert client.peer_certificate
    assert server.peer_certificate
    assert "established TLSv1.3" in repr(client)


@pytest.mark.parametrize("size", [1, 16_384, 1_000_000])
def test_what_is_sent_arrives(authority: Authority, size: int) -> None:
    """Any amount of plain text survives, over however many records."""
    client, server = pair(authority)
    shake(client, server)
    assert server.receive(client.send(b"x" * size)) == b"x" * size
    assert client.receive(server.send(b"y" * size)) == b"y" * size


def test_a_record_may_come_byte_by_byte(authority: Authority) -> None:
    """Half a record gives nothing, the last byte gives all."""
    client, server = pair(authority)
    shake(client, server)
    wire = client.send(b"hello")
    assert [server.receive(wire[i : i + 1]) for i in range(len(wire))] == [b""] * (len(wire) - 1) + [b"hello"]


def test_data_may_come_with_the_last_of_the_handshake(authority: Authority) -> None:
    """A client that sends its Finished and its first request in one segment is understood."""
    client, server = pair(authority)
    server.receive(client.start())
    client.receive(server.pending())
    assert server.receive(client.pending() + client.send(b"GET")) == b"GET"


def test_close_is_told_to_the_peer(authority: Authority) -> None:
    """close_notify sets `peer_closed` on the other side, with the data before it intact."""
    client, server = pair(authority)
    shake(client, server)
    assert server.receive(client.send(b"bye") + client.close()) == b"bye"
    assert server.peer_closed


def test_a_stranger_is_refused_with_an_alert(authority: Authority) -> None:
    """A server of another authority fails the client's handshake, and the alert is there to be sent."""
    client, server = pair(authority, other=Authority("stranger"))
    server.receive(client.start())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.receive(server.pending())
    assert client.pending()
    assert not client.established
    assert client.close() == b""


def test_plain_text_is_an_error(authority: Authority) -> None:
    """Bytes that are not TLS raise at once."""
    _, server = pair(authority)
    with pytest.raises(ssl.SSLError):
        server.receive(b"GET / HTTP/1.1\r\n\r\n")
