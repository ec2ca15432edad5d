"""An identity from a Workload API: taken, replaced, kept, and refused with a reason."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshlib.config.messages import message
from meshlib.errors import SettingsError, WorkloadApiError
from meshlib.identity import svid
from meshlib.runtime.certificates import Certificates, Identity
from meshlib.runtime.settings import Settings
from meshlib.runtime.trust import Trust
from meshlib.runtime.workload_api import WorkloadApi, identity_from
from tests.support.pki import Authority, spiffe
from tests.support.waiting import eventually
from tests.support.workload_api import Agent, agent, issued


class Process:
    """What a process with the library does about its identity, as fast as a test needs."""

    def __init__(self, endpoint: str, clock: Callable[[], float] = time.time) -> None:
        self.certificates = Certificates(clock)
        self.trust = Trust(lambda: None, self.certificates)
        self.woken = 0
        self.source = WorkloadApi(endpoint, self.trust, clock, lambda: 0.0, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    @property
    def fingerprint(self) -> str:
        identity = self.certificates.identity
        return identity.leaf.fingerprint if identity is not None else ""

    @property
    def problem(self) -> str:
        return str(self.source.problem or "")


@pytest.fixture
def spire(tmp_path: Path) -> Iterator[Agent]:
    with agent(tmp_path / "spire") as running:
        yield running


@pytest.fixture
def process(spire: Agent) -> Iterator[Process]:
    member = Process(spire.endpoint)
    yield member
    member.source.close()


def test_the_identity_is_the_agents(spire: Agent, process: Process) -> None:
    """After the first step there is a certificate with its key and the agent's roots, good for handshakes."""
    process.source.step()
    assert process.source.problem is None
    assert process.certificates.spiffe_id == spiffe("reviews")
    assert process.certificates.identity is not None
    assert process.certificates.identity.roots == spire.authority.roots_pem.decode()
    assert process.certificates.client_context().generation == 1


def test_a_rotation_arrives_without_asking(spire: Agent, process: Process) -> None:
    """Each pushed certificate is in use at once, and who sleeps is woken."""
    process.source.step()
    for _ in range(3):
        woken, newest = process.woken, spire.rotate().leaf.fingerprint
        eventually(lambda newest=newest: process.fingerprint == newest, "the pushed certificate")
        eventually(lambda woken=woken: process.woken > woken, "woken")


def test_roots_of_both_count(spire: Agent, process: Process) -> None:
    """The control plane's roots and the agent's are trusted side by side; a new word of one leaves the other's alone."""
    process.source.step()
    ours, newer = Authority("ours").root.decode(), Authority("newer").root.decode()
    theirs = spire.authority.roots_pem.decode()

    def roots() -> str:
        assert process.certificates.identity is not None
        return process.certificates.identity.roots

    process.trust.accept(ours)
    assert roots() == theirs + ours
    newest = spire.rotate().leaf.fingerprint
    eventually(lambda: process.fingerprint == newest, "the pushed certificate")
    assert roots() == theirs + ours
    process.trust.accept(newer)
    assert roots() == theirs + newer


def test_an_agent_that_is_away_changes_nothing(spire: Agent, process: Process) -> None:
    """The last identity stays, the outage is told, and when the agent is back its newest identity is in use."""
    process.source.step()
    before = process.fingerprint
    spire.stop()
    eventually(lambda: process.source.step() < 1.0 and bool(process.problem), "the outage is noticed")
    assert process.fingerprint == before
    assert process.certificates.client_context().generation == 1
    newest = spire.start().leaf.fingerprint

    def back() -> bool:
        process.source.step()
        return process.fingerprint == newest and not process.problem

    eventually(back, "the agent is back")


def test_tries_become_rarer(tmp_path: Path) -> None:
    """0.02 s to 0.2 s after the first failure, 1 s to 10 s at last; no step before that tries again."""
    now = 1000.0
    member = Process(f"unix://{tmp_path}/nothing.sock", lambda: now)
    waits = []
    for _ in range(8):
        waits.append(member.source.step())
        assert member.source.step() == pytest.approx(waits[-1])
        now += waits[-1]
    assert waits[0] == pytest.approx(0.02)
    assert waits[-1] == pytest.approx(1.0)
    assert waits == sorted(waits)


def test_no_socket(tmp_path: Path) -> None:
    """The error names the socket and asks for the agent."""
    member = Process(f"unix://{tmp_path}/nothing.sock")
    member.source.step()
    assert isinstance(member.source.problem, WorkloadApiError)
    assert f"{tmp_path}/nothing.sock cannot be reached" in member.problem
    assert "Is the agent running" in member.problem


def test_an_identity_without_service_account(spire: Agent) -> None:
    """A SPIFFE id of another form is refused, named, and the form that is needed is shown."""
    other = issued(spire.authority, "spiffe://cluster.local/workload/web")
    assert _refused(other, spire) == (
        "the Workload API at unix:/x gave an identity that cannot be used: "
        "'spiffe://cluster.local/workload/web' is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"
    )


def test_a_certificate_that_is_over(spire: Agent) -> None:
    """Is refused with both times."""
    assert "has expired" in _refused(issued(spire.authority, spiffe("reviews"), 60), spire, time.time() + 3600)


def test_a_certificate_that_its_bundle_does_not_vouch_for(spire: Agent, tmp_path: Path) -> None:
    """Is refused: peers would refuse it."""
    stranger = Agent(tmp_path / "stranger")
    try:
        other = issued(stranger.authority, spiffe("reviews"))
        assert "not one that this root vouches for" in _refused(other, spire)
    finally:
        stranger.close()


def test_a_key_of_another_certificate(spire: Agent, process: Process) -> None:
    """What does not belong together is refused, and what was good before stays in use."""
    process.source.step()
    before = process.fingerprint
    spire.publish(replace(spire.rotate(), key=issued(spire.authority, spiffe("reviews")).key))
    eventually(lambda: "OpenSSL does not accept" in process.problem, "told")
    good = spire.rotate().leaf.fingerprint
    eventually(lambda: process.fingerprint == good != before, "the next good one")
    assert process.problem == ""


def test_bytes_that_are_no_certificates(spire: Agent) -> None:
    """Any cut, and bytes that are something else, end in an error and never in another one."""
    good = _message(spire)
    for field in ("x509_svid", "x509_svid_key", "bundle"):
        whole = getattr(good.svids[0], field)
        for bad in (b"", b"\x30", b"\x30\x84", whole[:-1], whole[: len(whole) // 2], b"x" + whole, whole + b"\x30\x01"):
            spoiled = type(good).FromString(good.SerializeToString())
            setattr(spoiled.svids[0], field, bad)
            if field == "x509_svid_key" and bad.startswith(whole):
                continue  # DER readers of keys may ignore what follows
            with pytest.raises(WorkloadApiError, match="cannot be used"):
                _identity(spoiled)


def test_the_first_identity_of_a_service_account(spire: Agent) -> None:
    """Where an agent has several, others may come first; with none at all the error says so."""
    several = _message(spire)
    first = several.svids.add()
    first.spiffe_id = "spiffe://cluster.local/node"
    several.svids.reverse()
    assert _identity(several).leaf.spiffe_id == spiffe("reviews")
    with pytest.raises(WorkloadApiError, match="holds none"):
        _identity(type(several)())


def _message(spire: Agent) -> Any:
    """What an agent sends."""
    ours = issued(spire.authority, spiffe("reviews"))
    good = svid.svid_from_pem(ours.chain, ours.key, ours.roots)
    one = message("X509SVID")(spiffe_id=good.spiffe_id, x509_svid=good.chain, x509_svid_key=good.key, bundle=good.bundle)
    return message("X509SVIDResponse")(svids=[one])


def _identity(response: Any, now: float | None = None) -> Identity:
    return identity_from(response, "unix:/x", now or time.time())


def _refused(shown: Identity, spire: Agent, now: float | None = None) -> str:
    """Why a certificate beside the agent's bundle is refused."""
    response = _message(spire)
    response.svids[0].spiffe_id = shown.leaf.spiffe_id
    response.svids[0].x509_svid = ssl.PEM_cert_to_DER_cert(shown.chain)
    with pytest.raises(WorkloadApiError) as refused:
        _identity(response, now)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"),
        ("unix:/run/spire/agent.sock", "unix:/run/spire/agent.sock"),
        ("tcp://127.0.0.1:8000", "tcp://127.0.0.1:8000"),
    ],
)
def test_the_socket_in_the_environment(text: str, meant: str) -> None:
    """Said to meshlib itself, or by SPIFFE's variable when that is asked for; SPIFFE's alone changes nothing."""
    assert Settings.from_env({"MESHLIB_IDENTITY_SOURCE": text}).identity_source == meant
    both = {"MESHLIB_IDENTITY_SOURCE": "workload-api", "SPIFFE_ENDPOINT_SOCKET": text}
    assert Settings.from_env(both).identity_source == meant
    assert Settings.from_env({"SPIFFE_ENDPOINT_SOCKET": text}).identity_source == ""


@pytest.mark.parametrize(
    "text", ["agent.sock", "unix:agent.sock", "unix://", "tcp://1.2.3.4", "tcp://1.2.3.4:80/x", "https://x"]
)
def test_what_is_no_socket(text: str) -> None:
    """The error names the variable that is wrong and shows an example."""
    with pytest.raises(SettingsError, match=r"MESHLIB_IDENTITY_SOURCE=.*unix:///run/spire/agent.sock"):
        Settings.from_env({"MESHLIB_IDENTITY_SOURCE": text})
    with pytest.raises(SettingsError, match="SPIFFE_ENDPOINT_SOCKET="):
        Settings.from_env({"MESHLIB_IDENTITY_SOURCE": "workload-api"})
