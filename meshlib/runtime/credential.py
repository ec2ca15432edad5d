"""What this process shows the control plane: a join token at first, and its certificate from then on.

    no usable certificate ──> join token
    a usable certificate  ──> assertion signed with its key ──refused──> join token ──refused──> assertion again

Rule 1: the join token is for joining. Once there is a certificate, the token may expire.
Rule 2: a refused certificate is not the end (the control plane may have a new root): the token gets the next try. With it
the certificate is replaced at once: what the control plane refuses, peers that joined anew refuse as well.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from meshlib.errors import ControlPlaneError, CredentialError, SettingsError
from meshlib.runtime.certificates import Certificates, Identity

_ADVICE = (
    "Make a token with `meshlib token create --service-account NAME` "
    "and set MESHLIB_TOKEN, or MESHLIB_TOKEN_FILE to a file that holds it"
)

REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED")
"""gRPC's status names for a credential that does not count."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A credential that was sent.

    Args:
        bearer: for `authorization: Bearer`; empty: none.
        certificate: fingerprint of the certificate behind it; empty: it is the join token.
    """

    bearer: str = field(repr=False)
    certificate: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """For a gRPC call."""
        return (("authorization", f"Bearer {self.bearer}"),) if self.bearer else ()


class Credential:
    """Chooses the credential of each try and explains refusals. For one thread at a time; each user has its own.

    Args:
        token: gives the join token, read anew; empty if there is none.
        certificates: whose newest identity signs.
        wall: seconds since the epoch.
        advice: what to do without a token that counts.
        on_refusal: told the fingerprint of a certificate that was refused and that the token may replace.
    """

    def __init__(
        self,
        token: Callable[[], str],
        certificates: Certificates,
        wall: Callable[[], float],
        on_refusal: Callable[[str], None] = lambda fingerprint: None,
        advice: str = _ADVICE,
    ) -> None:
        self._token = token
        self._certificates = certificates
        self._wall = wall
        self._on_refusal = on_refusal
        self._advice = advice
        self._refused = ""  # fingerprint of the certificate that the control plane did not accept
        self._reason = ""

    def show(self) -> Shown:
        """The credential for the next try.

        Raises:
            SettingsError: it would be the token, and its file cannot be read.
        """
        identity = self._usable()
        if identity is not None and identity.leaf.fingerprint != self._refused:
            return self._signed(identity)
        try:
            token = self._token()
        except SettingsError:
            self._refused = ""  # no way on with the token: the certificate is tried again, the refusal may have passed
            raise
        return Shown(token) if token or identity is None else self._signed(identity)

    def refused(self, shown: Shown, target: str, detail: str) -> ControlPlaneError:
        """The error for a credential that was not accepted: what was refused, what the other one is worth, what to do.

        A CredentialError means that waiting does not help; after another ControlPlaneError the next try is with the token.

        Args:
            target: `host:port` of the control plane.
            detail: its answer.
        """
        if shown.certificate:
            return self._certificate_refused(shown, target, detail)
        refusal = f"the control plane at {target} refused the token: {detail}" if shown.bearer else "no token is set"
        error = CredentialError(f"{refusal}{self._other()}. {self._advice}")
        self._refused = ""
        return error

    def _certificate_refused(self, shown: Shown, target: str, detail: str) -> ControlPlaneError:
        self._refused, self._reason = shown.certificate, detail
        what = f"the control plane at {target} refused the certificate of {self._certificates.spiffe_id}: {detail}"
        try:
            token = self._token()
        except SettingsError as error:
            return CredentialError(f"{what}; and there is no token instead ({error}). {self._advice}")
        if not token:
            return CredentialError(f"{what}; and no token is set to join again. {self._advice}")
        self._on_refusal(shown.certificate)
        return ControlPlaneError(f"{what}; trying the token instead")

    def _other(self) -> str:
        """Why the certificate was not used, for the refusal of a token."""
        if self._refused:
            return f"; and before, the certificate of {self._certificates.spiffe_id}: {self._reason}"
        problem = self._certificates.problem()
        return f"; and the certificate of {self._certificates.spiffe_id} cannot be used: {problem}" if problem else ""

    def _usable(self) -> Identity | None:
        return None if self._certificates.problem() else self._certificates.identity

    def _signed(self, identity: Identity) -> Shown:
        from meshlib.identity import assertion  # here, not above: it loads a JWT library that joining does not need

        bearer = assertion.make(identity.chain, identity.key, self._wall(), secrets.token_hex(16))
        return Shown(bearer, identity.leaf.fingerprint)
