"""The thread that gets our certificate and renews it, or follows who does (`identity_source`).

A thread of its own: a request to the CA may wait for many seconds, and callers of the control thread must not wait with it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from meshlib.errors import ControlPlaneError, MeshError, NoCertificate
from meshlib.runtime.ca import renewal_spread
from meshlib.runtime.certificates import Certificates
from meshlib.runtime.identity_source import identity_source
from meshlib.runtime.settings import Settings
from meshlib.runtime.trust import Trust

LONGEST_SLEEP = 60.0  # seconds: a suspended machine or a corrected clock is noticed within this
RETRY = 5.0  # seconds after a fault of ours

_log = logging.getLogger("meshlib")


class Enrolment:
    """Keeps `certificates` fresh until `stop`.

    Args:
        on_identity: told our SPIFFE id whenever it changes.

    `trust` is whom this process trusts: whoever hears of other roots tells it.
    """

    def __init__(self, settings: Settings, certificates: Certificates, on_identity: Callable[[str], None]) -> None:
        self.problem: MeshError | None = None
        self._certificates = certificates
        self._on_identity = on_identity
        self._stopped = False
        self._refused = ""
        self._reissue = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meshlib-certificates", daemon=True)
        self.trust = Trust(settings.read_root_cert, certificates, self.reissue)
        self._source = identity_source(settings, certificates, self.trust, time.time, random.random, self._woken.set)
        self._known_as = ""
        self._told = ""

    def start(self) -> None:
        """Begin. Call once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the request that is under way, if any, without waiting for it."""
        self._stopped = True
        self._woken.set()

    def replace(self, fingerprint: str) -> None:
        """Renew at once if this is still our certificate: the control plane does not accept it. From any thread."""
        self._refused = fingerprint
        self._woken.set()

    def reissue(self) -> None:
        """Renew soon: another root signs than the one of our certificate. From any thread."""
        self._reissue = True
        self._woken.set()

    def _run(self) -> None:
        wait = 0.0
        while not self._sleep(wait):
            try:
                self._heed_refusal()
                self._heed_new_issuer()
                wait = self._source.step()
                self.problem = self._source.problem or self._over()
            except Exception:  # a fault of ours must not end renewal: the certificate would run out
                _log.exception("meshlib: renewing the certificate failed")
                wait = RETRY
            self._tell()
        self._source.close()

    def _sleep(self, seconds: float) -> bool:
        """Until then, or until something is to do. Whether it is to end."""
        self._woken.wait(min(seconds, LONGEST_SLEEP))
        self._woken.clear()
        return self._stopped

    def _heed_refusal(self) -> None:
        refused, self._refused = self._refused, ""
        identity = self._certificates.identity
        if refused and identity is not None and identity.leaf.fingerprint == refused:
            _log.info("meshlib: the control plane does not accept our certificate: asking for another")
            self._source.hasten()

    def _heed_new_issuer(self) -> None:
        heard, self._reissue = self._reissue, False
        if heard:
            _log.info("meshlib: another root signs now: asking for another certificate")
            self._source.hasten(renewal_spread(self._certificates))

    def _over(self) -> NoCertificate | None:
        """That our certificate ended, if nobody who gives us one said that anything was wrong."""
        why = self._certificates.problem()
        return NoCertificate(f"the certificate of {self._certificates.spiffe_id} cannot be used: {why}") if why else None

    def _tell(self) -> None:
        """Log each new problem once, and tell a new identity."""
        what = str(self.problem or "")
        if what and what != self._told:
            # That the control plane is away is told by the control thread, once; here it counts when the certificate is over.
            away = type(self.problem) is ControlPlaneError and not self._certificates.problem()
            _log.log(logging.INFO if away else logging.WARNING, "meshlib: no new certificate: %s", what)
        self._told = what
        if self._certificates.spiffe_id != self._known_as:
            self._known_as = self._certificates.spiffe_id
            self._on_identity(self._known_as)
            _log.info("meshlib: this process is %s", self._known_as)
