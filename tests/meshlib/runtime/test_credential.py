"""Which credential is shown when, and what a refusal says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshlib.errors import ControlPlaneError, CredentialError, SettingsError
from meshlib.identity import assertion
from meshlib.identity.csr import new_request
from meshlib.runtime.certificates import Certificates, Identity, identity_of
from meshlib.runtime.credential import Credential, Shown
from meshlib_control.ca import CertificateAuthority, open_authority
from tests.support.destinations import Clock
from tests.support.pki import spiffe

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
REVIEWS = spiffe("reviews")
TARGET = "127.0.0.1:15012"


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return open_authority(tmp_path, NOW)


class Process:
    """A process's credential on a clock that a test moves; it begins without a certificate."""

    def __init__(self, authority: CertificateAuthority) -> None:
        self.clock = Clock(NOW.timestamp())
        self.token = "the token"
        self.unreadable: SettingsError | None = None
        self.certificates = Certificates(self.clock)
        self.credential = Credential(self._read, self.certificates, self.clock)
        self._authority = authority

    def _read(self) -> str:
        if self.unreadable is not None:
            raise self.unreadable
        return self.token

    def join(self) -> Identity:
        """A new certificate, good for an hour."""
        request = new_request()
        now = datetime.fromtimestamp(self.clock.now, UTC)
        identity = identity_of(self._authority.issue(request.pem, REVIEWS, timedelta(hours=1), now), request.key_pem)
        self.certificates.install(identity)
        return identity

    def refuse(self, shown: Shown, detail: str) -> ControlPlaneError:
        return self.credential.refused(shown, TARGET, detail)

    def shows(self) -> str:
        """`token`, `certificate` or `nothing`: what the next try shows."""
        shown = self.credential.show()
        if assertion.is_assertion(shown.bearer):
            return "certificate"
        assert shown.bearer == self.token
        return "token" if shown.bearer else "nothing"


@pytest.fixture
def process(authority: CertificateAuthority) -> Process:
    return Process(authority)


def test_the_token_is_for_joining(process: Process) -> None:
    """Without a certificate the token, with one never again: its file may even be gone."""
    assert process.shows() == "token"
    process.join()
    process.unreadable = SettingsError("gone")
    assert process.shows() == "certificate"


def test_what_is_shown_proves_the_certificate(process: Process, authority: CertificateAuthority) -> None:
    """The control plane can check it with its root alone; each is another one; the text of a value shows no secret."""
    process.join()
    first, second = process.credential.show(), process.credential.show()
    who = assertion.verify(first.bearer, authority.roots_pem, ("cluster.local",), process.clock.now)
    assert str(who) == REVIEWS
    assert first.bearer != second.bearer
    assert first.metadata == (("authorization", f"Bearer {first.bearer}"),)
    assert first.bearer not in repr(first)


def test_the_newest_certificate_is_shown(process: Process) -> None:
    """After a renewal."""
    process.join()
    renewed = process.join()
    assert process.credential.show().certificate == renewed.leaf.fingerprint


def test_a_certificate_that_is_over_is_not_shown(process: Process) -> None:
    """The token has another chance then."""
    process.join()
    process.clock.sleep(3601)
    assert process.shows() == "token"


def test_nothing_to_show(process: Process) -> None:
    """No token, no certificate: no metadata, and the refusal says what is missing."""
    process.token = ""
    shown = process.credential.show()
    assert shown.metadata == ()
    error = process.refuse(shown, "no credential")
    assert isinstance(error, CredentialError)
    assert str(error).startswith("no token is set. Make a token with `meshlib token create")


def test_a_refused_token(process: Process) -> None:
    """The control plane's reason and what to do."""
    error = process.refuse(process.credential.show(), "the token expired at noon")
    assert isinstance(error, CredentialError)
    assert str(error).startswith(f"the control plane at {TARGET} refused the token: the token expired at noon. Make a token")
    assert "MESHLIB_TOKEN_FILE" in str(error)


def test_token_and_certificate_both_over(process: Process) -> None:
    """Both are told, each with its time, and what to do."""
    process.join()
    process.clock.sleep(3700)
    told = str(process.refuse(process.credential.show(), "the token expired at noon"))
    assert "refused the token: the token expired at noon; and the certificate of" in told
    assert f"{REVIEWS} cannot be used: it has expired: it ended at 2026-03-01 13:00:00 UTC" in told
    assert told.endswith("to a file that holds it")


def test_a_refused_certificate_falls_back_to_the_token(process: Process) -> None:
    """The next try; waiting is right meanwhile, so it is no CredentialError."""
    process.join()
    error = process.refuse(process.credential.show(), "another root")
    assert type(error) is ControlPlaneError
    assert str(error) == (
        f"the control plane at {TARGET} refused the certificate of {REVIEWS}: another root; trying the token instead"
    )
    assert process.shows() == "token"


def test_both_refused_takes_turns(process: Process) -> None:
    """Whichever the operator puts right first gets through; the refusal of the token tells both."""
    process.join()
    process.refuse(process.credential.show(), "another root")
    error = process.refuse(process.credential.show(), "the token expired at noon")
    assert isinstance(error, CredentialError)
    assert f"the token expired at noon; and before, the certificate of {REVIEWS}: another root. Make a token" in str(error)
    assert process.shows() == "certificate"


def test_the_certificate_that_the_token_brought_is_shown_again(process: Process) -> None:
    """The refusal was about the one before."""
    process.join()
    process.refuse(process.credential.show(), "another root")
    assert process.shows() == "token"
    process.join()
    assert process.shows() == "certificate"


def test_a_refused_certificate_without_any_token(process: Process) -> None:
    """There is nothing else to show, and that is said."""
    process.join()
    process.token = ""
    error = process.refuse(process.credential.show(), "another root")
    assert isinstance(error, CredentialError)
    assert "another root; and no token is set to join again. Make a token" in str(error)
    assert process.shows() == "certificate"


def test_a_refused_certificate_and_a_token_file_that_is_gone(process: Process) -> None:
    """The file is named; the certificate gets another try, for the refusal may pass."""
    process.join()
    process.unreadable = SettingsError("MESHLIB_TOKEN_FILE: the token cannot be read")
    error = process.refuse(process.credential.show(), "another root")
    assert isinstance(error, CredentialError)
    assert "no token instead (MESHLIB_TOKEN_FILE: the token cannot be read)" in str(error)
    with pytest.raises(SettingsError):
        process.credential.show()
    assert process.shows() == "certificate"
