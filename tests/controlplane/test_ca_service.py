"""The CA over real gRPC and TLS: the credential decides, and each refusal says why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshlib.config.messages import message
from meshlib.identity import assertion
from meshlib.identity.csr import new_request
from meshlib_control.authn import Authenticator
from meshlib_control.ca import CertificateAuthority, open_authority
from meshlib_control.ca_service import certificate_handler
from meshlib_control.grpc_listener import RenewedCertificate, listen_grpc, server_credentials
from meshlib_control.listening import Address
from meshlib_control.tokens import TokenIssuer, open_issuer

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


@dataclass
class Clock:
    """A time of day that tests move; by default the machine's, because TLS checks certificates against that."""

    shift: timedelta = field(default_factory=timedelta)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.shift


@dataclass
class Running:
    authority: CertificateAuthority
    issuer: TokenIssuer
    address: str
    clock: Clock

    def token(self, account: str = "bookinfo-reviews", namespace: str = "default", **wish: Any) -> str:
        return self.issuer.create(namespace, account, datetime.now(UTC), **wish)

    async def ask(self, token: str | None, csr: str = "", seconds: int = 3600, **wish: Any) -> list[str]:
        request = message("istio.v1.auth.IstioCertificateRequest")(
            csr=csr or signing_request(), validity_duration=seconds, **wish
        )
        metadata = [("authorization", f"Bearer {token}")] if token is not None else []
        async with self.channel() as channel:
            call = channel.unary_unary(
                METHOD,
                request_serializer=lambda value: value.SerializeToString(),
                response_deserializer=message("istio.v1.auth.IstioCertificateResponse").FromString,
            )
            return list((await call(request, metadata=metadata, timeout=10)).cert_chain)

    def channel(self) -> Any:
        return grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(self.authority.roots_pem))


@pytest.fixture
async def ca(tmp_path: Path) -> AsyncIterator[Running]:
    clock = Clock()
    authority = open_authority(tmp_path, clock())
    issuer = open_issuer(tmp_path)
    handler = certificate_handler(
        lambda: authority, Authenticator(issuer, "cluster.local", clock, lambda: authority.roots_pem), clock
    )
    credentials = server_credentials(RenewedCertificate(lambda: authority, [], clock))
    server, address = listen_grpc(Address("127.0.0.1", 0), credentials, [handler])
    await server.start()
    yield Running(authority, issuer, f"localhost:{address.port}", clock)
    await server.stop(None)


def signing_request(key: Any = None, name: str = "") -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if name:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)]), critical=False)
    request = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def uris(pem: str) -> list[str]:
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


async def test_the_credential_decides_the_identity(ca):
    """The request asks for an admin's name and gets the token's."""
    wish = signing_request(name="spiffe://cluster.local/ns/istio-system/sa/admin")
    chain = await ca.ask(ca.token("bookinfo-reviews"), wish)
    assert uris(chain[0]) == ["spiffe://cluster.local/ns/default/sa/bookinfo-reviews"]
    assert chain[-1].encode() == ca.authority.roots_pem


async def test_the_lifetime_asked_for_is_given(ca):
    """In seconds, bounded by 90 days even where a timedelta would overflow."""
    short, long = await ca.ask(ca.token(), seconds=5), await ca.ask(ca.token(), seconds=2**62)
    ends = [
        x509.load_pem_x509_certificate(chain[0].encode()).not_valid_after_utc - datetime.now(UTC) for chain in (short, long)
    ]
    assert timedelta(seconds=3) < ends[0] <= timedelta(seconds=6)
    assert timedelta(days=89) < ends[1] <= timedelta(days=90, seconds=2)


@pytest.mark.parametrize(
    ("token", "words"),
    [(None, "meshlib token create"), ("nonsense", "this is no token"), ("", "Bearer TOKEN")],
)
async def test_without_a_good_token_nothing_is_issued(ca, token, words):
    """UNAUTHENTICATED with the way to a token."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ca.ask(token)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert words in refused.value.details()


async def test_an_expired_token_is_told_both_times(ca):
    """A service that comes back after a week reads what to do."""
    token = ca.token(lifetime=timedelta(seconds=5))
    ca.clock.shift = timedelta(hours=1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ca.ask(token)
    assert "expired at" in refused.value.details()
    assert "--service-account bookinfo-reviews" in refused.value.details()


async def test_a_certificate_renews_itself_after_the_token_expired(ca):
    """Each proves the next; the identity stays, and the key is another one each time."""
    request = new_request()
    chain = await ca.ask(ca.token(lifetime=timedelta(seconds=5)), request.pem, seconds=7200)
    for hour in (1, 2, 3):
        ca.clock.shift = timedelta(hours=hour)
        shown = assertion.make(chain[0], request.key_pem, ca.clock().timestamp(), str(hour))
        request = new_request()
        chain = await ca.ask(shown, request.pem, seconds=7200)
        assert uris(chain[0]) == ["spiffe://cluster.local/ns/default/sa/bookinfo-reviews"]


async def test_an_expired_certificate_is_told_both_times(ca):
    """After that only a token helps, and the answer says so."""
    request = new_request()
    chain = await ca.ask(ca.token(), request.pem, seconds=60)
    ca.clock.shift = timedelta(hours=1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ca.ask(assertion.make(chain[0], request.key_pem, ca.clock().timestamp(), "1"))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "it has expired: it ended at" in refused.value.details()
    assert "Join again with a token: meshlib token create" in refused.value.details()


async def test_a_clock_an_hour_behind_is_named(ca):
    """The token looks as if it came from the future."""
    ca.clock.shift = timedelta(hours=-1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ca.ask(ca.token())
    assert "clock" in refused.value.details()


async def test_a_weak_key_is_an_invalid_argument(ca):
    """Not to be tried again: another status than the credential's."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ca.ask(ca.token(), signing_request(rsa.generate_private_key(65537, 1024)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "RSA with 1024 bits" in refused.value.details()


async def test_plain_text_is_refused(ca):
    """No token ever travels unencrypted."""
    async with grpc.aio.insecure_channel(ca.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(METHOD)(b"", timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_of_another_root_is_not_trusted(ca, tmp_path):
    """The client side of TLS: our root certificate is what makes the control plane known."""
    stranger = open_authority(tmp_path / "stranger", datetime.now(UTC))
    ca.authority = stranger
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ca.ask(ca.token())
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_servers_certificate_is_renewed_while_it_runs(ca):
    """At half of its life new connections get a new one; the server is not restarted."""
    first = await shown(ca.address)
    assert await shown(ca.address) == first
    ca.clock.shift = timedelta(days=4)
    second = await shown(ca.address)
    assert second.serial_number != first.serial_number
    assert second.not_valid_after_utc > first.not_valid_after_utc + timedelta(days=3)


async def shown(address: str) -> x509.Certificate:
    host, port = address.split(":")
    context = ssl_without_checks()
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der)


def ssl_without_checks() -> Any:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
