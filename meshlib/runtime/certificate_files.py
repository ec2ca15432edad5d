"""Our certificate in files, for what reads nothing else: grpcio's core, gRPC in other languages.

    FOLDER/cert-chain.pem -> ..data/cert-chain.pem
    FOLDER/key.pem        -> ..data/key.pem
    FOLDER/root-cert.pem  -> ..data/root-cert.pem
    FOLDER/..data         -> ..x7f3a2c1     the newest; replaced in one step, as Kubernetes replaces a mounted Secret

The names are those of Istio's agent.
Rule 1: at every moment key, chain and roots belong together: one rename changes all three. A reader that opens one before it
        and one after it sees that from their times of modification, which grpcio's core compares before and after reading.
Rule 2: nobody else may look: the folder is 0700, the files are 0600. Elsewhere in meshlib no key is on a disk; here it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from meshlib.errors import CredentialError, MeshError, SettingsError
from meshlib.runtime.ca import renewal_spread
from meshlib.runtime.certificates import Certificates, Identity
from meshlib.runtime.identity_source import authority, identity_source
from meshlib.runtime.settings import Settings
from meshlib.runtime.trust import Trust

CHAIN, KEY, ROOTS = "cert-chain.pem", "key.pem", "root-cert.pem"
LONGEST_SLEEP = 60.0  # seconds: a suspended machine or a corrected clock is noticed within this
SHORTEST_PERIOD = 1.0  # seconds between questions whom to trust; for certificates of a few seconds
RETRY = 5.0  # seconds after the disk failed us

_NEWEST = "..data"
_log = logging.getLogger("meshlib")


class CertificatePlace(Protocol):
    """Where each newest certificate goes."""

    @property
    def path(self) -> Path:
        """For people: where it is."""

    def write(self, identity: Identity) -> None:
        """Take an identity instead of the one before. Raises SettingsError if that cannot be done."""


@dataclass(frozen=True, slots=True)
class CertificateFolder:
    """A private folder with a certificate, its key and the roots to trust.

    Args:
        path: absolute; made with mode 0700 when the first certificate is written.
    """

    path: Path

    @property
    def chain(self) -> Path:
        """PEM: leaf first, then intermediates."""
        return self.path / CHAIN

    @property
    def key(self) -> Path:
        """PEM of the private key."""
        return self.path / KEY

    @property
    def roots(self) -> Path:
        """PEM of whom to trust."""
        return self.path / ROOTS

    def write(self, identity: Identity) -> None:
        """Make an identity the one that readers find.

        Raises:
            SettingsError: the folder cannot be written, or others may look into it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check()
            self._write(identity)
        except OSError as error:
            raise SettingsError(f"the certificate cannot be written to {self.path}: {error}") from error

    def _check(self) -> None:
        mode = self.path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SettingsError(
                f"{self.path} is open to other users (mode {stat.S_IMODE(mode):04o}), and a private key is to be kept in it; "
                f"chmod 700 {self.path}, or choose another folder"
            )

    def _write(self, identity: Identity) -> None:
        generation = Path(tempfile.mkdtemp(prefix="..", dir=self.path))  # mode 0700
        for name, content in ((KEY, identity.key), (CHAIN, identity.chain.encode()), (ROOTS, identity.roots.encode())):
            _write_private(generation / name, content)
        newest = self.path / _NEWEST
        before = os.readlink(newest) if newest.is_symlink() else ""
        _point(newest, generation.name)
        for name in (KEY, CHAIN, ROOTS):
            if not (self.path / name).is_symlink():
                _point(self.path / name, f"{_NEWEST}/{name}")
        self._sweep({generation.name, before, _NEWEST})

    def _sweep(self, keep: set[str]) -> None:
        # The one before stays until the next: a reader may just be on its way to it.
        for old in self.path.glob("..*"):
            if old.name not in keep and old.is_dir() and not old.is_symlink():
                shutil.rmtree(old, ignore_errors=True)


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _point(link: Path, target: str) -> None:
    """Make a symbolic link, in place of the one that may be there, in one step."""
    draft = link.with_name(f"{link.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    draft.symlink_to(target)
    draft.replace(link)


class CertificateKeeper:
    """Gets a certificate to a place and renews it there at half of its life.

    Args:
        settings: the control plane, the credential, the lifetime to ask for.
        place: gets each one; a folder as a rule.
        wall: seconds since the epoch. dice: uniform in [0.0, 1.0).
    """

    def __init__(
        self,
        settings: Settings,
        place: CertificatePlace,
        wall: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.place = place
        self._certificates = Certificates(wall)
        self._trust = Trust(settings.read_root_cert, self._certificates, self._reissue)
        self._authority = authority(settings, self._certificates, self._trust, wall)
        self._source = identity_source(settings, self._certificates, self._trust, wall, dice)
        self._wall = wall
        self._period = min(LONGEST_SLEEP, max(SHORTEST_PERIOD, settings.certificate_lifetime / 20))
        self._asked = wall()
        self._version = ""
        self._written = 0
        self._told = ""

    @property
    def spiffe_id(self) -> str:
        """Whose certificate it is; empty: there is none yet."""
        return self._certificates.spiffe_id

    @property
    def expires_at(self) -> float | None:
        """When the newest certificate ends, seconds since the epoch; None: there is none yet."""
        return self._certificates.expires_at

    def obtain(self, timeout: float) -> None:
        """Get the first certificate, now.

        Args:
            timeout: seconds to keep trying while the control plane cannot be reached.

        Raises:
            CredentialError: the token is missing or wrong; trying again would not help.
            MeshError: the reason why there is no certificate after `timeout`.
        """
        until = time.monotonic() + timeout
        while not self._written:
            wait = self.step()
            problem = self._source.problem
            if problem is not None:
                if isinstance(problem, CredentialError | SettingsError) or time.monotonic() + wait > until:
                    raise problem
                time.sleep(wait)

    def step(self) -> float:
        """Renew if that is due, and write what is new. Returns the seconds after which to call again.

        Raises:
            SettingsError: the place cannot be written.
        """
        self._ask_whom_to_trust()
        wait = self._source.step()
        identity, generation = self._certificates.identity, self._certificates.generation
        if identity is not None and generation != self._written:
            self.place.write(identity)
            self._written = generation
        return min(wait, self._period)

    def _ask_whom_to_trust(self) -> None:
        """Now and then: nobody tells those who have files only, and a certificate is renewed twice in its life."""
        if self._certificates.identity is None or 0 <= self._wall() - self._asked < self._period:
            return
        self._asked = self._wall()
        # While it is away the roots do not change. Another control plane than ours may not know the question at all.
        with contextlib.suppress(MeshError):
            roots, version = self._authority.roots(self._version)
            self._trust.accept(roots)
            self._version = version

    def _reissue(self) -> None:
        self._source.hasten(renewal_spread(self._certificates))

    def run(self, stopped: threading.Event) -> None:
        """Keep the place fresh until `stopped`; an outage of the control plane or of the disk is told once and waited out."""
        wait = 0.0
        while not stopped.wait(min(wait, LONGEST_SLEEP)):
            try:
                wait = self.step()
                self._tell(self._source.problem)
            except SettingsError as error:
                wait = RETRY
                self._tell(error)
            except Exception:  # a fault of ours must not end renewal: the certificate would run out
                wait = RETRY
                _log.exception("meshlib: renewing the certificate in %s failed", self.place.path)

    def _tell(self, problem: MeshError | None) -> None:
        what = str(problem or "")
        if what and what != self._told:
            _log.warning("meshlib: no new certificate for %s: %s", self.place.path, what)
        self._told = what
