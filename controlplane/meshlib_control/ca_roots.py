"""Our own roots: one that signs, and while it is being replaced, the next one or the one before.

    STEADY ──begin──> DISTRIBUTING ──switch──> RETIRING ──retire──> STEADY
     signs: A           signs: A                 signs: B             signs: B
     trusted: A         trusted: A, B            trusted: B, A        trusted: B

What leads from one state to the next is decided in `ca_rotation`. Here is what each state means, and that none gets lost.

Rule 1: one file holds everything (`ca.json`, which its owner alone may read) and is replaced in one step: a control plane that
        is killed at any moment finds itself before a step or after it. `root-cert.pem` is a copy for people, made from it.
Rule 2: B is signed by A as well, once, and this certificate is shown beside those of B. So who knows A only, because it was
        away while B was distributed, still gets to the control plane and hears of B.
Rule 3: a key that signs nothing any more is forgotten: A's at the switch.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshlib.errors import SettingsError

from .ca import (
    BACKDATED,
    CERTIFICATE_FILE,
    LONGEST_LIFETIME,
    CertificateAuthority,
    common_name,
    issuer_key_identifier,
    key_pem,
    pem_of,
    usage,
)
from .errors import CannotStart
from .private_file import read_private, replace_file, write_private

FILE = "ca.json"
FORMER_KEY_FILE = "root-key.pem"  # beside root-cert.pem: where the one root was kept before there could be several

ROOT_LIFETIME = timedelta(days=3650)  # Istio's self-signed root

_log = logging.getLogger(__name__)
_RESTORE = "restore it from a backup"


class Phase(Enum):
    """How far the replacement of the root is."""

    STEADY = "steady"
    DISTRIBUTING = "distributing"  # the next root goes to everybody; the old one signs
    RETIRING = "retiring"  # the new root signs; the old one is trusted until the last of its certificates is over


@dataclass(frozen=True, slots=True)
class Root:
    """A root certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Roots:
    """All roots at one moment.

    Args:
        signing: issues certificates.
        next: will issue them; None: no replacement has begun.
        old: issued them before and is still trusted; None: there is none.
        old_until: when the last certificate of `old` is over at the latest.
        cross: `signing`'s key, certified by the root before it; while DISTRIBUTING, `next`'s certified by `signing`.
        longest: the longest lifetime that `signing` has given.
    """

    signing: Root
    next: Root | None = None
    old: x509.Certificate | None = None
    old_until: datetime | None = None
    cross: x509.Certificate | None = None
    longest: timedelta = timedelta(0)

    @property
    def phase(self) -> Phase:
        """Which state this is."""
        if self.next is not None:
            return Phase.DISTRIBUTING
        return Phase.RETIRING if self.old is not None else Phase.STEADY

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """Whom everybody is to trust, the one that signs first."""
        others = (self.next.certificate if self.next else None, self.old)
        return (self.signing.certificate, *(one for one in others if one is not None))

    def authority(self) -> CertificateAuthority:
        """What signs in this state."""
        introduction = (self.cross,) if self.cross is not None and self.next is None else ()
        chain = introduction if self.old is not None else ()
        return CertificateAuthority(self.signing.key, self.signing.certificate, self.trusted, chain, introduction)

    def begun(self, now: datetime, organization: str) -> Roots:
        """A new root is made, to be distributed. Raises SettingsError if a replacement is under way."""
        if self.phase is not Phase.STEADY:
            raise SettingsError(
                f"the root is being replaced already: {self.phase.value}; `meshlib ca show` says who is waited for"
            )
        new = new_root(now, organization)
        return replace(self, next=new, cross=_certified_by(self.signing, new))

    def switched(self, now: datetime) -> Roots:
        """The new root signs from now on."""
        assert self.next is not None
        return replace(
            self,
            signing=self.next,
            next=None,
            old=self.signing.certificate,
            old_until=now + self.longest,
            longest=timedelta(0),
        )

    def retired(self) -> Roots:
        """The old root is trusted no more."""
        return replace(self, old=None, old_until=None)

    def granted(self, lifetime: timedelta) -> Roots:
        """A certificate was issued; the same value unless it lives longer than any before."""
        # In whole seconds, or the fraction of the second in which each one was issued would make a new record.
        whole = timedelta(seconds=math.ceil(lifetime.total_seconds()))
        return replace(self, longest=whole) if whole > self.longest else self

    def to_json(self) -> bytes:
        """As kept on disk."""
        content = {
            "signing": _root_data(self.signing),
            "next": _root_data(self.next) if self.next else None,
            "old": _text(self.old),
            "old_until": self.old_until.isoformat() if self.old_until else None,
            "cross": _text(self.cross),
            "longest_lifetime": self.longest.total_seconds(),
        }
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> Roots:
        """From disk. Raises ValueError, KeyError or TypeError for something else."""
        data = json.loads(content)
        until = data["old_until"]
        return cls(
            signing=_root(data["signing"]),
            next=_root(data["next"]) if data["next"] else None,
            old=_certificate(data["old"]),
            old_until=datetime.fromisoformat(until) if until else None,
            cross=_certificate(data["cross"]),
            longest=timedelta(seconds=data["longest_lifetime"]),
        )


class KeptRoots:
    """The roots in force, on disk and in memory. Changed in one thread; `current` may be read in any.

    Args:
        folder: of the control plane's data.
        organization: the trust domain, for people who look at a root certificate.
    """

    def __init__(self, folder: Path, roots: Roots, organization: str) -> None:
        self._folder = folder
        self._organization = organization
        self.roots = roots
        self.current: CertificateAuthority = roots.authority()
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each change of what is trusted or signs."""
        self._listeners.append(listener)

    def begin(self, now: datetime) -> None:
        """See `Roots.begun`."""
        self._become(self.roots.begun(now, self._organization))

    def switch(self, now: datetime) -> None:
        """See `Roots.switched`."""
        self._become(self.roots.switched(now))

    def retire(self) -> None:
        """See `Roots.retired`."""
        self._become(self.roots.retired())

    def granted(self, lifetime: timedelta) -> None:
        """A certificate was issued. Raises CannotStart if that must be noted and the disk does not take it."""
        noted = self.roots.granted(lifetime)
        if noted is not self.roots:
            write_private(self._folder / FILE, noted.to_json())
            self.roots = noted

    def _become(self, roots: Roots) -> None:
        # On disk first: what was told to others must not be forgotten.
        write_private(self._folder / FILE, roots.to_json())
        self.roots, self.current = roots, roots.authority()
        write_copy(self._folder, self.current)
        for listener in self._listeners:
            listener()


def open_roots(folder: Path, now: datetime, organization: str = "cluster.local") -> KeptRoots:
    """The roots kept in a folder; the first one is made there on the first start.

    Args:
        folder: holds `ca.json` (mode 0600) and `root-cert.pem`.
        organization: the trust domain, for people who look at the root certificate.

    Raises:
        CannotStart: the file can be read by others, is missing or broken, or the root that signs is not valid now.
    """
    roots = _read(folder, now, organization)
    _judge(roots, folder, now)
    (folder / FORMER_KEY_FILE).unlink(missing_ok=True)  # its key is in `ca.json` by now, and one copy of it is enough
    kept = KeptRoots(folder, roots, organization)
    write_copy(folder, kept.current)
    return kept


def write_copy(folder: Path, authority: CertificateAuthority) -> None:
    """`root-cert.pem`, as it should be. A copy only: if the disk does not take it, that is told and all goes on."""
    path, content = folder / CERTIFICATE_FILE, authority.roots_pem
    try:
        if not path.exists() or path.read_bytes() != content:
            replace_file(path, content)
    except (CannotStart, OSError) as error:
        _log.warning("%s is not up to date: %s", path, error)


def described(root: x509.Certificate, *, signs: bool) -> dict[str, Any]:
    """A root, for people and programs."""
    return {
        "subject": root.subject.rfc4514_string(),
        "fingerprint": root.fingerprint(hashes.SHA256()).hex(),
        "notAfter": root.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
        "signs": signs,
    }


def new_root(now: datetime, organization: str) -> Root:
    """A root with a new P-256 key and a name of its own, valid for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Not two of one name: who looks at a chain is to see which of them it was.
    name = common_name(f"meshlib root {now:%Y-%m-%d} {serial & 0xFFFFFFFF:08x}", organization)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Root(builder.sign(key, hashes.SHA256()), key)


def _certified_by(old: Root, new: Root) -> x509.Certificate:
    """The new root's name and key in a certificate of the old one."""
    root = new.certificate
    builder = (
        x509.CertificateBuilder()
        .issuer_name(old.certificate.subject)
        .subject_name(root.subject)
        .public_key(new.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(min(root.not_valid_after_utc, old.certificate.not_valid_after_utc))
        .add_extension(issuer_key_identifier(old.certificate), critical=False)
    )
    for extension in root.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(old.key, hashes.SHA256())


def _read(folder: Path, now: datetime, organization: str) -> Roots:
    path = folder / FILE
    if not path.exists():
        return _created(folder, now, organization)
    try:
        return Roots.from_json(read_private(path))
    except (ValueError, KeyError, TypeError, UnsupportedAlgorithm) as error:
        raise CannotStart(f"{path} holds no certificate authority ({error})", _RESTORE) from error


def _created(folder: Path, now: datetime, organization: str) -> Roots:
    former = folder / FORMER_KEY_FILE
    if former.exists():
        roots = _taken_over(folder)
    elif (folder / CERTIFICATE_FILE).exists():
        raise CannotStart(
            f"{folder} holds {CERTIFICATE_FILE}, but {FILE} with its key is missing",
            f"restore {FILE} from a backup; or remove {CERTIFICATE_FILE} to make a new root, and give that to every service",
        )
    else:
        roots = Roots(new_root(now, organization))
    write_private(folder / FILE, roots.to_json())
    return roots


def _taken_over(folder: Path) -> Roots:
    """The one root of a folder that an earlier version wrote. How long its certificates live is not known: as the longest."""
    path = folder / FORMER_KEY_FILE
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
        return Roots(Root(certificate, _p256(key)), longest=LONGEST_LIFETIME)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CannotStart(f"{path} and {CERTIFICATE_FILE} are no certificate authority ({error})", _RESTORE) from error


def _judge(roots: Roots, folder: Path, now: datetime) -> None:
    certificate = roots.signing.certificate
    if certificate.public_key() != roots.signing.key.public_key():
        raise CannotStart(
            f"the root's key and certificate in {folder} do not belong together",
            f"{_RESTORE}; or remove {FILE} and {CERTIFICATE_FILE} to make a new root, and give it to every service",
        )
    if now < certificate.not_valid_before_utc:
        raise CannotStart(
            f"the root certificate in {folder} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on, "
            f"and this machine says it is {now:%Y-%m-%d %H:%M} UTC",
            "set the clock",
        )
    if now >= certificate.not_valid_after_utc:
        raise CannotStart(
            f"the root certificate in {folder} ended at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
            f"remove {FILE} and {CERTIFICATE_FILE} to make a new root, and give it to every service",
        )


def _root_data(root: Root) -> dict[str, str]:
    return {"certificate": pem_of(root.certificate).decode(), "key": key_pem(root.key).decode()}


def _root(data: Any) -> Root:
    key = serialization.load_pem_private_key(data["key"].encode(), password=None)
    return Root(x509.load_pem_x509_certificate(data["certificate"].encode()), _p256(key))


def _p256(key: object) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"the key must be an elliptic curve key, not {type(key).__name__}")
    return key


def _text(certificate: x509.Certificate | None) -> str | None:
    return pem_of(certificate).decode() if certificate is not None else None


def _certificate(text: str | None) -> x509.Certificate | None:
    return x509.load_pem_x509_certificate(text.encode()) if text else None
