"""Roots of another authority whose certificates count as ours do: SPIRE's, where its agents give workloads their identity.

    authority (ca_roots) ──current──┐
    file with roots ────────────────┴─> Widened.current: signs as before; the file's roots are trusted, too

Rule 1: whoever has a key of such a root can be anybody in our trust domain. TLS has one list of roots for all names.
Rule 2: the file is looked at again and again: its writer replaces roots as we do, first both, then the new one. What cannot be
        read is told, and the roots of before stay.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509

from meshlib.identity.leaf import UNREADABLE

from .ca import CertificateAuthority
from .errors import CannotStart
from .looking import looking

_log = logging.getLogger(__name__)

Roots = tuple[x509.Certificate, ...]


class Authorities(Protocol):
    """The authority in force, which changes while roots are replaced."""

    current: CertificateAuthority

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each change."""

    def granted(self, lifetime: timedelta) -> None:
        """A certificate was issued."""


class Widened:
    """An authority, and further roots to trust. `current` may be read in any thread.

    Args:
        authorities: what signs.
        bundle: PEM file with the further roots; None: there are none.

    Raises:
        CannotStart: the file cannot be read or holds no certificate.
    """

    def __init__(self, authorities: Authorities, bundle: Path | None) -> None:
        self._authorities = authorities
        self._bundle = bundle
        self._further = _read(bundle) if bundle is not None else ()
        self._listeners: list[Callable[[], None]] = []
        self.current = self._joined()
        authorities.on_change(self._renew)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each change of what is trusted or signs."""
        self._listeners.append(listener)

    def granted(self, lifetime: timedelta) -> None:
        """See `KeptRoots.granted`."""
        self._authorities.granted(lifetime)

    def look(self) -> bool:
        """Take other roots into use. Returns whether there were any.

        Raises:
            CannotStart: the file cannot be used; the roots of before stay.
        """
        found = _read(self._bundle) if self._bundle is not None else ()
        if found == self._further:
            return False
        self._further = found
        self._renew()
        _log.warning("%s has other roots: %d are trusted besides our own", self._bundle, len(found))
        return True

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Looks at the file while the context lasts; without one there is nothing to look at."""
        if self._bundle is None:
            return contextlib.nullcontext()
        return looking(self.look, f"the roots of before stay trusted, {self._bundle} cannot be used", _log)

    def _renew(self) -> None:
        self.current = self._joined()
        for listener in self._listeners:
            listener()

    def _joined(self) -> CertificateAuthority:
        # Another value only where something is added: who holds the one before compares by identity.
        authority = self._authorities.current
        own = authority.roots or (authority.certificate,)
        further = tuple(one for one in self._further if one not in own)
        return replace(authority, roots=(*own, *further)) if further else authority


def _read(path: Path) -> Roots:
    try:
        return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
    except (OSError, *UNREADABLE) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CannotStart(
            f"--trust-bundle {path} cannot be read: {why}",
            "give it the roots in PEM; SPIRE writes them with: spire-server bundle show -format pem",
        ) from error
