import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshlib.config.messages import message
from meshlib.errors import ControlPlaneError, CredentialError, IdentityError, MeshError, SettingsError
from meshlib.runtime.ca import LONGEST_WAIT, CertificateAuthority, Renewal
from meshlib.runtime.certificates import Certificates, Identity, identity_of
from meshlib.runtime.credential import Credential
from meshlib_control.ca import open_authority
from tests.support.destinations import Clock, Dice
from tests.support.pki import Authority, spiffe

REVIEWS = spiffe("reviews")
TOKEN = "a good token"


class ControlPlane:
    """A CA behind real gRPC and TLS; `now` is its own clock, `asked` what it heard."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime.now(UTC)
        self.asked: list[Any] = []
        self._authority = open_authority(folder, self.now)
        proof = self._authority.server_certificate([], self.now)
        self._server = grpc.server(ThreadPoolExecutor(2))
        method = grpc.unary_unary_rpc_method_handler(
            self._create,
            message("istio.v1.auth.IstioCertificateRequest").FromString,
            lambda answer: answer.SerializeToString(),
        )
        service = grpc.method_handlers_generic_handler("istio.v1.auth.IstioCertificateService", {"CreateCertificate": method})
        self._server.add_generic_rpc_handlers([service])
        credentials = grpc.ssl_server_credentials([(proof.key, proof.chain)])
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    @property
    def root(self) -> bytes:
        return self._authority.roots_pem

    def client(
        self, token: str = TOKEN, wall: Callable[[], float] | None = None, root: bytes | None = None
    ) -> CertificateAuthority:
        wall = wall or (lambda: self.now.timestamp())
        credential = Credential(lambda: token, Certificates(), wall)
        return CertificateAuthority(f"127.0.0.1:{self.port}", lambda: root or self.root, credential, wall, "reviews-1")

    def _create(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked.append(request)
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token's signature is wrong")
        if request.validity_duration == 13:
            context.abort(grpc.StatusCode.INTERNAL, "out of luck")
        chain = self._authority.issue(request.csr, REVIEWS, timedelta(seconds=request.validity_duration), self.now)
        return message("istio.v1.auth.IstioCertificateResponse")(cert_chain=chain)

    def stop(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    running = ControlPlane(tmp_path)
    yield running
    running.stop()


def test_a_certificate_for_the_credential(plane: ControlPlane) -> None:
    """The CA's answer can be used at once; the request says how long and which instance, never who."""
    identity = plane.client().issue(3600)
    certificates = Certificates()
    certificates.install(identity)
    assert certificates.spiffe_id == REVIEWS
    assert certificates.client_context().generation == 1
    [request] = plane.asked
    assert request.validity_duration == 3600
    assert request.metadata.fields["INSTANCE"].string_value == "reviews-1"
    assert identity.leaf.not_after - plane.now.timestamp() == pytest.approx(3600, abs=2)


def test_each_request_has_a_key_of_its_own(plane: ControlPlane) -> None:
    """Renewal makes a new key."""
    assert plane.client().issue(60).key != plane.client().issue(60).key


def test_a_wrong_token(plane: ControlPlane) -> None:
    """Refused with the control plane's reason and how to get a new one."""
    with pytest.raises(CredentialError, match=r"refused the token: the token's signature is wrong.*meshlib token create"):
        plane.client("a bad token").issue(60)


def test_no_token(plane: ControlPlane) -> None:
    """Without a token the message says so, and not that it is wrong."""
    with pytest.raises(CredentialError, match=r"no token is set.*MESHLIB_TOKEN"):
        plane.client("").issue(60)


def test_a_stranger_is_not_asked_for_an_identity(plane: ControlPlane) -> None:
    """A server that the root certificate does not vouch for never sees the token."""
    with pytest.raises(ControlPlaneError, match=r"does not prove to be the control plane.*MESHLIB_ROOT_CERT"):
        plane.client(root=Authority("another").root).issue(60)
    assert plane.asked == []


def test_nobody_there() -> None:
    """No control plane: the message says where it was looked for and how to start one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    credential = Credential(lambda: TOKEN, Certificates(), Clock())
    client = CertificateAuthority(f"127.0.0.1:{port}", lambda: Authority().root, credential, Clock())
    with pytest.raises(ControlPlaneError, match=rf"127.0.0.1:{port} cannot be reached.*meshlib controlplane"):
        client.issue(60, timeout=5)


def test_another_failure_is_passed_on(plane: ControlPlane) -> None:
    """What the CA says about itself reaches the user."""
    with pytest.raises(ControlPlaneError, match="INTERNAL: out of luck"):
        plane.client().issue(13)


@pytest.mark.parametrize(("hours", "words"), [(-1, "it is not yet valid"), (1, "it has expired")])
def test_a_clock_an_hour_off(plane: ControlPlane, hours: int, words: str) -> None:
    """A certificate that this clock does not accept is refused with both times and what to do."""
    wrong = plane.now.timestamp() + hours * 3600
    with pytest.raises(IdentityError, match=rf"just issued cannot be used: {words}.*UTC.*UTC, .* Set the clock"):
        plane.client(wall=lambda: wrong).issue(1800)


class Issuer(CertificateAuthority):
    """A CA without a wire: gives certificates that begin now by a test's clock, or fails as told."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.error: MeshError | None = None
        self.calls = 0
        self._root = Authority()

    def issue(self, lifetime: float, timeout: float = 10.0) -> Identity:
        self.calls += 1
        if self.error is not None:
            raise self.error
        leaf = self._root.issue()
        identity = identity_of([leaf.chain.decode(), self._root.root.decode()], leaf.key)
        times = replace(identity.leaf, not_before=self.clock.now, not_after=self.clock.now + lifetime)
        return replace(identity, leaf=times)


class Renewing:
    """A Renewal on a clock that a test moves."""

    def __init__(self, lifetime: float = 1000.0) -> None:
        self.clock = Clock(1_700_000_000.0)
        self.issuer = Issuer(self.clock)
        self.certificates = Certificates(self.clock)
        self.renewal = Renewal(self.issuer, self.certificates, lifetime, self.clock, Dice(0.5))

    def run(self, seconds: float) -> None:
        """Step as the owner's thread does, for a time of the test's clock."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.sleep(max(0.001, min(self.renewal.step(), end - self.clock.now)))


def test_renewal_at_half_life() -> None:
    """One certificate at once, the next after half of its life, and so on."""
    mesh = Renewing(1000.0)
    mesh.run(499)
    assert mesh.certificates.generation == 1
    mesh.run(2)
    assert mesh.certificates.generation == 2
    mesh.run(5000)
    assert mesh.certificates.generation == 12
    assert mesh.renewal.problem is None


def test_a_certificate_that_is_worth_nothing_is_replaced_at_once() -> None:
    """It does not last until half of its life. A pause after a failure lasts: haste is no reason to ask more often."""
    mesh = Renewing(1000.0)
    mesh.run(100)
    mesh.renewal.hasten()
    mesh.renewal.step()
    assert mesh.certificates.generation == 2
    mesh.issuer.error = ControlPlaneError("away")
    mesh.renewal.hasten()
    mesh.renewal.step()
    mesh.renewal.hasten()
    mesh.renewal.step()
    assert mesh.issuer.calls == 3


def test_failures_wait_longer_and_longer() -> None:
    """A control plane that is away is asked less and less often, and found within half a minute when it is back."""
    mesh = Renewing()
    mesh.issuer.error = ControlPlaneError("away")
    waits = []
    for _ in range(12):
        waits.append(mesh.renewal.step())
        mesh.clock.sleep(waits[-1])
    assert waits[:3] == pytest.approx([0.11, 0.22, 0.44])
    assert waits == sorted(waits)
    assert waits[-1] <= LONGEST_WAIT
    assert str(mesh.renewal.problem) == "away"
    mesh.issuer.error = None
    mesh.run(LONGEST_WAIT)
    assert mesh.certificates.generation == 1
    assert mesh.renewal.problem is None


def test_a_step_too_early_does_nothing() -> None:
    """Calling before the time asks nobody, after success as after failure."""
    mesh = Renewing()
    mesh.renewal.step()
    mesh.renewal.step()
    assert mesh.issuer.calls == 1
    mesh.clock.sleep(600)
    mesh.issuer.error = ControlPlaneError("away")
    mesh.renewal.step()
    mesh.renewal.step()
    assert mesh.issuer.calls == 2


def test_the_old_certificate_serves_while_the_control_plane_is_away() -> None:
    """Renewal fails at half life: the certificate stays in use until it ends, and then the message tells both."""
    mesh = Renewing(1000.0)
    mesh.renewal.step()
    mesh.issuer.error = ControlPlaneError("the control plane at 127.0.0.1:15012 cannot be reached")
    mesh.run(900)
    assert mesh.certificates.client_context().generation == 1
    assert str(mesh.renewal.problem) == "the control plane at 127.0.0.1:15012 cannot be reached"
    mesh.run(200)
    assert isinstance(mesh.renewal.problem, ControlPlaneError)
    told = str(mesh.renewal.problem)
    assert told.startswith(f"the certificate of {REVIEWS} cannot be used: it has expired")
    assert told.endswith("Renewal failed: the control plane at 127.0.0.1:15012 cannot be reached")


def test_a_clock_that_is_set_back_renews_at_once() -> None:
    """When the certificate is not valid any more by the corrected clock, a new one is asked for without waiting."""
    mesh = Renewing()
    mesh.renewal.step()
    mesh.clock.sleep(-7200)
    mesh.renewal.step()
    assert mesh.certificates.generation == 2
    mesh.issuer.error = ControlPlaneError("away")
    mesh.clock.sleep(600)
    mesh.renewal.step()
    mesh.clock.sleep(-7200)
    mesh.issuer.error = None
    mesh.renewal.step()
    assert mesh.certificates.generation == 3


def test_a_missing_token_file_is_a_problem_not_a_crash() -> None:
    """Errors of settings while reading the credential are told and tried again."""
    mesh = Renewing()
    mesh.issuer.error = SettingsError("MESHLIB_TOKEN_FILE: the token cannot be read")
    assert 0 < mesh.renewal.step() <= LONGEST_WAIT
    assert isinstance(mesh.renewal.problem, SettingsError)


def test_a_life_of_a_second_does_not_spin() -> None:
    """However short the life, there is a pause between two requests."""
    mesh = Renewing(0.01)
    mesh.run(2)
    assert mesh.issuer.calls <= 11
