"""Certificates from the control plane: a signing request out, a chain back, again at half of each certificate's life.

Rule 1: the credential decides who we become; the request carries a key only.
Rule 2: a refusal names its reason and the next thing to do; while the control plane is away the old certificate serves on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshlib.config.messages import message, type_url
from meshlib.errors import ControlPlaneError, CredentialError, IdentityError, MeshError
from meshlib.identity.csr import new_request
from meshlib.identity.rotation import explain, renew_at
from meshlib.runtime.certificates import Certificates, Identity, identity_of
from meshlib.runtime.credential import REFUSALS, Credential
from meshlib.runtime.schedule import back_off
from meshlib.runtime.trust import ROOTS, SECRET, roots_of

if TYPE_CHECKING:
    import grpc

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
ROOTS_METHOD = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets"

FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
"""Seconds: the back-off after a failed request doubles from the first to the longest."""
LONGEST_SPREAD = 60.0


class CertificateAuthority:
    """The control plane's CA.

    Args:
        target: `host:port` of the control plane.
        roots: gives the PEM that proves the control plane; None leaves the system's roots.
        credential: what to show; asked anew for each request, as the root is.
        wall: seconds since the epoch.
        instance: our name, told for the operator's list of certificates; decides nothing.
    """

    def __init__(
        self,
        target: str,
        roots: Callable[[], bytes | None],
        credential: Credential,
        wall: Callable[[], float],
        instance: str = "",
    ) -> None:
        self._target = target
        self._instance = instance
        self._roots = roots
        self._credential = credential
        self._wall = wall

    def issue(self, lifetime: float, timeout: float = 10.0) -> Identity:
        """A new key with a certificate for it.

        Args:
            lifetime: seconds to ask for; the CA may give less.
            timeout: seconds for the whole request.

        Raises:
            CredentialError: the token is missing, wrong or expired, and there is no certificate to renew with.
            ControlPlaneError: it cannot be reached, does not prove itself, or failed.
            IdentityError: the answer cannot be used, by this machine's clock for example.
        """
        request = new_request()
        identity = identity_of(self._sign(request.pem, lifetime, timeout), request.key_pem)
        problem = explain(self._wall(), identity.leaf.not_before, identity.leaf.not_after)
        if problem:
            raise IdentityError(
                f"the certificate that {self._target} just issued cannot be used: {problem}. "
                "Set the clock of this machine, or of the control plane's"
            )
        return identity

    def roots(self, held: str, timeout: float = 10.0) -> tuple[str, str]:
        """Whom to trust now, for those who do not follow that on a stream.

        Args:
            held: the version of what is in use; empty: not known.
            timeout: seconds for the whole request.

        Returns:
            PEM and its version.

        Raises:
            MeshError: as `issue`; a control plane that is not ours may not know the question.
        """
        node = {"id": self._instance}
        question = message("envoy.service.discovery.v3.DiscoveryRequest")(
            node=node, resource_names=[ROOTS], type_url=type_url(SECRET), version_info=held
        )
        answer = self._call(ROOTS_METHOD, question, "envoy.service.discovery.v3.DiscoveryResponse", timeout)
        roots, _ = roots_of(b"".join(one.value for one in answer.resources))
        return roots, answer.version_info

    def _sign(self, csr: str, lifetime: float, timeout: float) -> list[str]:
        question = message("istio.v1.auth.IstioCertificateRequest")(csr=csr, validity_duration=round(lifetime))
        if self._instance:
            question.metadata.fields["INSTANCE"].string_value = self._instance
        return list(self._call(METHOD, question, "istio.v1.auth.IstioCertificateResponse", timeout).cert_chain)

    def _call(self, method: str, question: Any, answer: str, timeout: float) -> Any:
        import grpc  # here, not above: a gRPC library that is loaded before a fork has threads in the wrong process

        shown = self._credential.show()
        # A channel per request: one is made a few times a day, and none is left over for a fork to inherit.
        with grpc.secure_channel(self._target, grpc.ssl_channel_credentials(self._roots())) as channel:
            call = channel.unary_unary(method, lambda request: request.SerializeToString(), message(answer).FromString)
            try:
                return call(question, timeout=timeout, metadata=shown.metadata)
            except grpc.RpcError as error:
                if error.code().name in REFUSALS:
                    raise self._credential.refused(shown, self._target, error.details() or "") from error
                raise _translated(error, self._target) from error


def _translated(error: grpc.RpcError, target: str) -> MeshError:
    status, detail = error.code().name, error.details() or ""
    if "CERTIFICATE_VERIFY_FAILED" in detail:
        return ControlPlaneError(
            f"{target} does not prove to be the control plane: {detail}. Set MESHLIB_ROOT_CERT to its root-cert.pem; "
            "if the certificate is not yet valid or has expired, compare the clocks of both machines"
        )
    if status in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return ControlPlaneError(
            f"the control plane at {target} cannot be reached: {detail}. Start it with `meshlib controlplane`, "
            "or set MESHLIB_CONTROL_PLANE to where it is"
        )
    return ControlPlaneError(f"the CA at {target} failed: {status}: {detail}")


def renewal_spread(certificates: Certificates) -> float:
    """Seconds over which all members spread their requests when another root signs: a tenth of a life, at most a minute."""
    identity = certificates.identity
    return min(LONGEST_SPREAD, (identity.leaf.not_after - identity.leaf.not_before) / 10) if identity is not None else 0.0


class Renewal:
    """Keeps `certificates` fresh. The owner's thread calls `step` and sleeps for what it returns.

    Args:
        lifetime: seconds to ask for.
        wall: seconds since the epoch.
        dice: uniform in [0.0, 1.0): spreads renewals and back-off.
    """

    def __init__(
        self,
        authority: CertificateAuthority,
        certificates: Certificates,
        lifetime: float,
        wall: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        self._authority = authority
        self._certificates = certificates
        self._lifetime = lifetime
        self._wall = wall
        self._dice = dice
        self._failures = 0
        self._due = 0.0
        self.problem: MeshError | None = None
        """Why the last request failed; None: it did not."""

    def step(self) -> float:
        """Ask for a certificate if one is due. Returns the seconds after which to call again; never raises a MeshError."""
        left = self._left()
        if left > 0:
            return min(left, LONGEST_WAIT)
        try:
            identity = self._authority.issue(self._lifetime)
            self._certificates.install(identity)
        except MeshError as error:
            self.problem = self._told(error)
            return self._back_off()
        self.problem, self._failures = None, 0
        due = renew_at(identity.leaf.not_before, identity.leaf.not_after, 2 * self._dice() - 1)
        self._due = max(due, self._wall() + FIRST_WAIT)
        return min(self._left(), LONGEST_WAIT)

    def hasten(self, within: float = 0.0) -> None:
        """Ask for another certificate soon, unless that is tried already and pauses after a failure.

        Args:
            within: seconds, over which all who hear of the reason spread. 0: the next step asks.
        """
        if not self._failures:
            self._due = min(self._due, self._wall() + within * self._dice()) if within else 0.0

    def close(self) -> None:
        """Nothing: each request has a connection of its own."""

    def _left(self) -> float:
        """Seconds until a request is due. Clocks jump and machines sleep: what cannot be true any more is due now."""
        left = self._due - self._wall()
        if self._failures:
            return left if left <= LONGEST_WAIT else 0.0
        return 0.0 if self._certificates.problem() else left

    def _told(self, error: MeshError) -> MeshError:
        """The error; when the certificate in use is over meanwhile, with that said first."""
        over = self._certificates.problem()
        if not over or isinstance(error, CredentialError):  # a refusal names the certificate itself
            return error
        return type(error)(
            f"the certificate of {self._certificates.spiffe_id} cannot be used: {over}. Renewal failed: {error}"
        )

    def _back_off(self) -> float:
        self._failures += 1
        wait = back_off(self._failures, FIRST_WAIT, LONGEST_WAIT, self._dice())
        self._due = self._wall() + wait
        return wait
