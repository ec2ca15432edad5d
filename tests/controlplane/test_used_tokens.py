"""Tokens that count once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshlib.errors import SettingsError
from meshlib_control.authn import Authenticator
from meshlib_control.ca import open_authority
from meshlib_control.tokens import open_issuer
from meshlib_control.used_tokens import JOINING, TokenUsed, UsedTokens

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Desk:
    """A control plane's authentication, on a clock of the test's."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.folder = folder
        self.issuer = open_issuer(folder)
        self.restart()

    def restart(self) -> None:
        roots = open_authority(self.folder, self.now).roots_pem
        self.authenticator = Authenticator(
            self.issuer, "cluster.local", lambda: self.now, lambda: roots, used=UsedTokens(self.folder)
        )

    def token(self, *, once: bool = True) -> list[tuple[str, str | bytes]]:
        return [("authorization", f"Bearer {self.issuer.create('default', 'reviews', NOW, timedelta(hours=1), once=once)}")]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_replayed_token_is_refused(desk: Desk) -> None:
    """With the time of its first use, and what that means."""
    token = desk.token()
    assert desk.authenticator.caller(token, joining=True).service_account == "reviews"
    desk.now += timedelta(seconds=1)
    with pytest.raises(TokenUsed, match=r"used at 2026-03-01 12:00:00 UTC\. If that was not you, somebody else"):
        desk.authenticator.caller(token, joining=True)
    assert desk.authenticator.caller(desk.token(), joining=True).service_account == "reviews"


def test_a_restart_forgets_no_use(desk: Desk) -> None:
    """It is on disk before the certificate is given out, for its owner alone."""
    token = desk.token()
    desk.authenticator.caller(token, joining=True)
    desk.restart()
    with pytest.raises(TokenUsed):
        desk.authenticator.caller(token, joining=True)
    assert (desk.folder / "used-tokens.json").stat().st_mode & 0o777 == 0o600


def test_a_stream_may_be_opened_while_the_certificate_is_on_the_way(desk: Desk) -> None:
    """Before its use and some seconds after; not later."""
    token = desk.token()
    desk.authenticator.caller(token)
    desk.authenticator.caller(token, joining=True)
    desk.now += JOINING - timedelta(seconds=1)
    desk.authenticator.caller(token)
    desk.now += timedelta(seconds=1)
    with pytest.raises(TokenUsed):
        desk.authenticator.caller(token)


def test_other_tokens_count_as_often_as_they_are_shown(desk: Desk) -> None:
    """Prefork workers join with one."""
    token = desk.token(once=False)
    for _ in range(3):
        desk.authenticator.caller(token, joining=True)
    assert not (desk.folder / "used-tokens.json").exists()


def test_what_has_expired_is_forgotten(desk: Desk) -> None:
    """Its own time refuses it by then."""
    desk.authenticator.caller(desk.token(), joining=True)
    before = (desk.folder / "used-tokens.json").stat().st_size
    desk.now += timedelta(hours=2)
    late = desk.issuer.create("default", "reviews", desk.now, once=True)
    desk.authenticator.caller([("authorization", f"Bearer {late}")], joining=True)
    assert (desk.folder / "used-tokens.json").stat().st_size == before


def test_a_disk_that_does_not_take_it_uses_nothing_and_lets_nobody_in(desk: Desk) -> None:
    """Security fails closed; with room again the token counts."""
    token = desk.token()
    (desk.folder / "used-tokens.json").mkdir()
    with pytest.raises(SettingsError, match="cannot write"):
        desk.authenticator.caller(token, joining=True)
    (desk.folder / "used-tokens.json").rmdir()
    assert desk.authenticator.caller(token, joining=True).service_account == "reviews"


@pytest.mark.parametrize("content", ["garbage", "[]", '{"a": 1}'])
def test_a_broken_file_is_no_empty_one(desk: Desk, content: str) -> None:
    """It would make every used token good again."""
    desk.authenticator.caller(desk.token(), joining=True)
    (desk.folder / "used-tokens.json").write_text(content)
    with pytest.raises(SettingsError, match="nobody knows which tokens were used"):
        desk.restart()
