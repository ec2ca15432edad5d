"""Where this process's identity comes from, and what it shows the control plane at first.

                        the identity                        shown without a certificate
    control plane's CA  asked for, renewed at half its life  the join token
    SPIFFE Workload API pushed by an agent                   nothing: the agent knows who asks

From the first certificate on both are the same: it signs what is shown, and it is what peers see.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from meshlib.errors import MeshError, NoCertificate
from meshlib.runtime.ca import CertificateAuthority, Renewal
from meshlib.runtime.certificates import Certificates
from meshlib.runtime.credential import Credential
from meshlib.runtime.settings import Settings
from meshlib.runtime.trust import Trust
from meshlib.runtime.workload_api import WorkloadApi

_ADVICE = (
    "The identity comes from a Workload API: start the control plane with --trust-domain as the agent's, "
    "and with its roots: --trust-bundle FILE"
)


class IdentitySource(Protocol):
    """Keeps `Certificates` fresh. The owner's thread calls `step` and sleeps for what it returns."""

    problem: MeshError | None
    """Why there is no newer identity; None: nothing is known to be wrong."""

    def step(self) -> float:
        """Do what is due. Returns the seconds after which to call again; never raises a MeshError."""

    def hasten(self, within: float = 0.0) -> None:
        """Get another certificate soon, if that is ours to decide. `within`: see `Renewal`."""

    def close(self) -> None:
        """Let go of connections."""


def identity_source(
    settings: Settings,
    certificates: Certificates,
    trust: Trust,
    wall: Callable[[], float],
    dice: Callable[[], float],
    wake: Callable[[], None] = lambda: None,
) -> IdentitySource:
    """The source that the settings name.

    Args:
        certificates, trust: get the identity; `trust` belongs to `certificates`.
        wall: seconds since the epoch. dice: uniform in [0.0, 1.0).
        wake: called, from another thread, when the next step should not wait.
    """
    if settings.identity_source:
        return WorkloadApi(settings.identity_source, trust, wall, dice, wake)
    return Renewal(authority(settings, certificates, trust, wall), certificates, settings.certificate_lifetime, wall, dice)


def authority(settings: Settings, certificates: Certificates, trust: Trust, wall: Callable[[], float]) -> CertificateAuthority:
    """The control plane's CA, as this process asks it."""
    shown = credential(settings, certificates, wall)
    return CertificateAuthority(settings.control_plane, trust.control_plane_roots, shown, wall, settings.instance)


def credential(
    settings: Settings,
    certificates: Certificates,
    wall: Callable[[], float],
    on_refusal: Callable[[str], None] = lambda fingerprint: None,
) -> Credential:
    """What to show the control plane; see `Credential`."""
    if not settings.identity_source:
        return Credential(settings.read_token, certificates, wall, on_refusal)
    return Credential(partial(_no_token, settings, certificates), certificates, wall, on_refusal, _ADVICE)


def _no_token(settings: Settings, certificates: Certificates) -> str:
    if certificates.identity is None:
        raise NoCertificate(f"the Workload API at {settings.identity_source} has given no identity yet")
    return ""
