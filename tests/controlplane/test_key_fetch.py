"""The control plane asks an issuer for its keys, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from meshlib_control import key_fetch
from meshlib_control.jwks import KeysUnavailable
from meshlib_control.key_fetch import DISCOVERY, LARGEST, fetch
from meshlib_control.model import KeySource
from tests.support import pki

Answers = dict[str, bytes]


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole response."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.asynccontextmanager
async def issuer(answers: Callable[[str], Answers], context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server on loopback; gives its base URL. A path without an answer is never answered."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            if path in known:
                writer.write(known[path])
                await writer.drain()
            else:
                await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    serving = set[Any]()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    base = f"{'https' if context else 'http'}://localhost:{server.sockets[0].getsockname()[1]}"
    known = answers(base)
    try:
        yield base
    finally:
        server.close()
        await asyncio.gather(*serving)


async def test_a_uri_is_asked_and_its_answer_handed_on() -> None:
    """By a name that may have several addresses."""
    async with issuer(lambda _: {"/keys?a=b": answer(b"content")}) as base:
        assert await fetch(KeySource(f"{base}/keys?a=b", ""), 5) == b"content"


async def test_an_issuer_tells_where_its_keys_are() -> None:
    """OpenID Connect Discovery, with or without a slash at the issuer's end."""
    async with issuer(
        lambda base: {DISCOVERY: answer(f'{{"jwks_uri": "{base}/keys"}}'.encode()), "/keys": answer(b"content")}
    ) as base:
        assert await fetch(KeySource("", base), 5) == b"content"
        assert await fetch(KeySource("", f"{base}/"), 5) == b"content"


async def test_redirects_are_followed_five_times() -> None:
    """Relative ones, too."""
    answers = {f"/{number}": answer(b"", "302 Found", f"location: /{number + 1}") for number in range(6)}
    async with issuer(lambda _: {**answers, "/6": answer(b"content")}) as base:
        assert await fetch(KeySource(f"{base}/1", ""), 5) == b"content"
        with pytest.raises(KeysUnavailable, match="more than 5 redirects"):
            await fetch(KeySource(f"{base}/0", ""), 5)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (answer(b"", "404 Not Found"), "answers 404"),
        (answer(b"", "500 Internal Server Error"), "answers 500"),
        (answer(b"x" * (LARGEST + 1)), "has more than 262144 bytes"),
        (answer(b"", "302 Found", "location: file:///etc/passwd"), "no http or https URL"),
        (answer(b"", "302 Found", "location: http://169.254.169.254/latest"), "where no issuer can be"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "illegal"),
        (b"", "disconnected"),
    ],
)
async def test_what_cannot_be_used_is_told(reply: bytes, why: str) -> None:
    """Each as what happened, and nothing of the body."""
    async with issuer(lambda _: {"/keys": reply}) as base:
        with pytest.raises(KeysUnavailable, match=why):
            await fetch(KeySource(f"{base}/keys", ""), 5)


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://100.100.100.200/",
        "http://[fd00:ec2::254]/",
        "http://2852039166/",
    ],
)
async def test_where_clouds_keep_secrets_nobody_is_asked(uri: str) -> None:
    """By any spelling of the address."""
    with pytest.raises(KeysUnavailable, match="where no issuer can be"):
        await fetch(KeySource(uri, ""), 5)


async def test_a_name_that_leads_there_is_not_asked_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that was looked at is the one that is connected to."""

    async def addresses(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "169.254.169.254"]

    monkeypatch.setattr(key_fetch, "_addresses", addresses)
    with pytest.raises(KeysUnavailable, match=r"keys\.example is 169\.254\.169\.254"):
        await fetch(KeySource("http://keys.example/", ""), 5)


@pytest.mark.parametrize("source", [KeySource("", "testing@secure.istio.io"), KeySource("ftp://a/b", ""), KeySource("", "")])
async def test_what_is_no_url_is_told(source: KeySource) -> None:
    """An issuer need not be one, if its rule says where its keys are."""
    with pytest.raises(KeysUnavailable, match="no http or https URL"):
        await fetch(source, 5)


async def test_nobody_waits_for_ever() -> None:
    """The time is for all of it."""
    async with issuer(lambda _: {}) as base:
        with pytest.raises(KeysUnavailable, match=r"no answer in 0\.2 s"):
            await fetch(KeySource(f"{base}/silent", ""), 0.2)


async def test_who_is_not_there_is_told() -> None:
    """A port where nobody listens."""
    with pytest.raises(KeysUnavailable):
        await fetch(KeySource("http://127.0.0.1:9/keys", ""), 5)


async def test_an_issuer_behind_tls_must_prove_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a root that this machine trusts; and TLS is not given up on the way."""
    authority, root = pki.Authority(), tmp_path / "root.pem"
    root.write_bytes(authority.root)
    leaf = authority.issue(names=(x509.DNSName("localhost"),))
    context = authority.server_context(leaf, require_client=False)
    plain = answer(b"", "302 Found", "location: http://localhost:1/keys")
    async with issuer(lambda _: {"/keys": answer(b"content"), "/plain": plain}, context) as base:
        with pytest.raises(KeysUnavailable, match="certificate verify failed"):
            await fetch(KeySource(f"{base}/keys", ""), 5)
        monkeypatch.setenv("SSL_CERT_FILE", str(root))
        assert await fetch(KeySource(f"{base}/keys", ""), 5) == b"content"
        with pytest.raises(KeysUnavailable, match="which has no TLS"):
            await fetch(KeySource(f"{base}/plain", ""), 5)
