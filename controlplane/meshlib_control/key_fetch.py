"""Fetches an issuer's keys over HTTP, and finds them first where only the issuer is known (OpenID Connect Discovery).

Who may write a RequestAuthentication chooses what the control plane asks for. So it connects to no address where clouds hand
out secrets of the machine (Istio: BlockedIPDialContext), whatever name leads there; it follows five redirects, and none that
gives up TLS; it reads a quarter of a MiB. Proxies are not used.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from ipaddress import IPv6Address, ip_address
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpcore

from .jwks import KeysUnavailable
from .model import KeySource

LARGEST: Final = 256 * 1024  # bytes
REDIRECTS: Final = 5
DISCOVERY: Final = "/.well-known/openid-configuration"

_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_SECRETS: Final = frozenset(map(ip_address, ("100.100.100.200", "192.0.0.192", "fd00:ec2::254")))  # of clouds, not link-local
_FAILURES: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    TimeoutError,
    OSError,
    ValueError,
)


async def fetch(source: KeySource, seconds: float) -> bytes:
    """What is at a source's URI, or at the one that its issuer names.

    Args:
        seconds: for everything.

    Raises:
        KeysUnavailable: says why.
    """
    try:
        async with asyncio.timeout(seconds), _pool() as pool:
            return await _get(pool, source.uri or await _discovered(pool, source.issuer))
    except TimeoutError as error:
        raise KeysUnavailable(f"no answer in {seconds:g} s") from error
    except _FAILURES as error:
        raise KeysUnavailable(str(error) or type(error).__name__) from error


def _pool() -> httpcore.AsyncConnectionPool:
    return httpcore.AsyncConnectionPool(
        ssl_context=ssl.create_default_context(), max_keepalive_connections=0, network_backend=_Guarded()
    )


async def _discovered(pool: httpcore.AsyncConnectionPool, issuer: str) -> str:
    found = json.loads(await _get(pool, issuer.removesuffix("/") + DISCOVERY))
    uri = found.get("jwks_uri") if isinstance(found, dict) else None
    if not isinstance(uri, str):
        raise KeysUnavailable(f"{issuer} does not say where its keys are: its {DISCOVERY} has no jwks_uri")
    return uri


async def _get(pool: httpcore.AsyncConnectionPool, uri: str) -> bytes:
    for _ in range(REDIRECTS + 1):
        if urlsplit(uri).scheme not in {"http", "https"}:
            raise KeysUnavailable(f"{uri!r} is no http or https URL")
        async with pool.stream("GET", uri, headers={"accept": "application/json", "user-agent": "meshlib"}) as response:
            if response.status not in _MOVED:
                return await _body(response, uri)
            uri = _redirected(response, uri)
    raise KeysUnavailable(f"more than {REDIRECTS} redirects, the last to {uri}")


async def _body(response: httpcore.Response, uri: str) -> bytes:
    if not 200 <= response.status < 300:
        raise KeysUnavailable(f"{uri} answers {response.status}")
    content = b""
    async for part in response.aiter_stream():
        content += part
        if len(content) > LARGEST:
            raise KeysUnavailable(f"{uri} has more than {LARGEST} bytes")
    return content


def _redirected(response: httpcore.Response, uri: str) -> str:
    location = next((value.decode("latin-1") for name, value in response.headers if name.lower() == b"location"), "")
    target = urljoin(uri, location)
    if urlsplit(uri).scheme == "https" and urlsplit(target).scheme != "https":
        raise KeysUnavailable(f"{uri} redirects to {target}, which has no TLS")
    return target


class _Guarded(httpcore.AnyIOBackend):
    """Connects to addresses that it looked at, so that a name cannot lead to another one between look and connection."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await _addresses(host, port)
        for address in addresses:
            if _forbidden(address):
                raise KeysUnavailable(f"{host} is {address}, where no issuer can be")
        return await self._first(addresses, port, timeout, local_address, socket_options)

    async def _first(self, addresses: list[str], port: int, *others: Any) -> httpcore.AsyncNetworkStream:
        for address in addresses[:-1]:
            try:
                return await super().connect_tcp(address, port, *others)
            except httpcore.ConnectError:
                continue
        return await super().connect_tcp(addresses[-1], port, *others)


async def _addresses(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _forbidden(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_link_local or address.is_multicast or address in _SECRETS
