"""Join tokens: how a process outside Kubernetes proves which service account it has.

A token is a JWT signed with ES256 by a key of this control plane, for the audience `istio-ca`, with a subject in the form of
Kubernetes (`system:serviceaccount:NAMESPACE:NAME`): Istio's CA reads the same from a service account's token.

Rule 1: the algorithm is ours, never the token's choice: `none` and HMAC with the public key are refused by name.
Rule 2: a refusal says which check failed and what to do; a token's content is only quoted after its signature was checked.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from meshlib.errors import CredentialError, SettingsError

from .errors import CannotStart
from .private_file import read_private, write_private

ISSUER = "meshlib"
AUDIENCE = "istio-ca"  # what Istio's CA expects
ONCE = "meshlib.once"  # a claim of ours
KEY_FILE = "token-key.pem"
ADMIN_FILE = "admin.token"

DEFAULT_LIFETIME = timedelta(hours=24)
LONGEST_LIFETIME = timedelta(days=365)
CLOCK_SKEW = timedelta(seconds=60)

_ALGORITHM = "ES256"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123 label
_ACCOUNT = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")  # RFC 1123 subdomain, as Kubernetes allows
_TOKEN_CHARACTERS = 8 * 1024
_NEW_ONE = "Get a new one: meshlib token create --service-account"


class MalformedToken(CredentialError):
    """It is no token of ours: not a JWT, another algorithm, or a claim is missing."""


class WrongSignature(CredentialError):
    """It was signed by another control plane, or changed on the way."""


class WrongAudience(CredentialError):
    """It was made for another use."""


class TokenExpired(CredentialError):
    """Its time is over."""


class TokenNotYetValid(CredentialError):
    """Its time has not come: a clock is off."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Whom a token stands for, and until when.

    Args:
        once: the token's number if it counts once; empty: it counts as often as it is shown.
    """

    namespace: str
    name: str
    expires: datetime
    once: str = ""


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """Makes and checks join tokens. Made by `open_issuer`."""

    key: ECKey

    @property
    def key_id(self) -> str:
        """Names the key in a token's header: the key's RFC 7638 thumbprint."""
        return self.key.thumbprint()

    def create(
        self,
        namespace: str,
        service_account: str,
        now: datetime,
        lifetime: timedelta = DEFAULT_LIFETIME,
        *,
        once: bool = False,
    ) -> str:
        """A token for a service account.

        Args:
            once: it is good for one certificate (`used_tokens`).

        Raises:
            SettingsError: a name that Kubernetes would not allow, or a lifetime outside one second to a year.
        """
        claims = {ONCE: True} if once else {}
        return self.sign(AUDIENCE, account_subject(namespace, service_account), now, lifetime, **claims)

    def sign(self, audience: str, subject: str, now: datetime, lifetime: timedelta, **claims: object) -> str:
        """A token for a use.

        Args:
            audience: who is to accept it.
            claims: further ones.

        Raises:
            SettingsError: a lifetime outside one second to a year.
        """
        if not timedelta(seconds=1) <= lifetime <= LONGEST_LIFETIME:
            raise SettingsError(
                f"a token lives between 1s and {LONGEST_LIFETIME.days}d, not {lifetime.total_seconds():.0f}s. "
                "Write for example 24h"
            )
        issued = int(now.timestamp())
        every = {
            "iss": ISSUER,
            "aud": [audience],
            "sub": subject,
            "iat": issued,
            "nbf": issued,
            "exp": issued + int(lifetime.total_seconds()),
            "jti": secrets.token_hex(16),
            **claims,
        }
        return jwt.encode({"alg": _ALGORITHM, "kid": self.key_id}, every, self.key, algorithms=[_ALGORITHM])

    def verify(self, token: str, now: datetime) -> ServiceAccount:
        """Whom a token stands for.

        Raises:
            CredentialError: one of MalformedToken, WrongSignature, WrongAudience, TokenExpired, TokenNotYetValid.
        """
        claims = self.claims(token, AUDIENCE, now)
        namespace, name = _subject(claims)
        return ServiceAccount(namespace, name, _moment(claims, "exp"), _number(claims) if claims.get(ONCE) else "")

    def claims(self, token: str, audience: str, now: datetime) -> Mapping[str, Any]:
        """What a token says, once it is known to be ours, for this use, and valid now.

        Raises:
            CredentialError: as `verify`.
        """
        claims = self._claims(token)
        _check_purpose(claims, audience)
        _check_times(claims, now)
        return claims

    def _claims(self, token: str) -> Mapping[str, Any]:
        _check_header(token, self.key_id)
        try:
            return jwt.decode(token, self.key, algorithms=[_ALGORITHM]).claims
        except JoseError as error:
            raise WrongSignature(
                f"the token's signature is wrong: it was changed, or signed by another control plane. {_NEW_ONE} NAME"
            ) from error
        except ValueError as error:
            raise MalformedToken(f"the token cannot be read. {_NEW_ONE} NAME") from error


def open_issuer(folder: Path) -> TokenIssuer:
    """The issuer whose key is kept in a folder (`token-key.pem`, mode 0600); made there on the first start.

    Raises:
        CannotStart: the key can be read by others or is broken.
    """
    path = folder / KEY_FILE
    if not path.exists():
        write_private(path, ECKey.generate_key("P-256").as_pem(private=True))
    try:
        return TokenIssuer(ECKey.import_key(read_private(path)))
    except (JoseError, ValueError) as error:
        raise CannotStart(
            f"{path} holds no usable key ({error})", "remove it: a new one is made, and tokens given out before become invalid"
        ) from error


def open_admin_token(folder: Path) -> str:
    """The token that commands use against the API, kept in `admin.token` (mode 0600); made on the first start.

    Raises:
        CannotStart: the file can be read by others or is empty.
    """
    path = folder / ADMIN_FILE
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32).encode() + b"\n")
    token = read_private(path).decode(errors="replace").strip()
    if not token:
        raise CannotStart(f"{path} is empty", "remove it, and a new one is made at the next start")
    return token


def _check_header(token: str, key_id: str) -> None:
    if len(token) > _TOKEN_CHARACTERS:
        raise MalformedToken(f"the token has {len(token)} characters, at most {_TOKEN_CHARACTERS} are read")
    try:
        header = jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError) as error:
        raise MalformedToken(f"this is no token (a JWT has three parts joined by dots). {_NEW_ONE} NAME") from error
    if header.get("alg") != _ALGORITHM:
        raise MalformedToken(f"the token must be signed with {_ALGORITHM}, it says otherwise. {_NEW_ONE} NAME")
    if header.get("kid") != key_id:
        raise WrongSignature(
            f"the token was signed by another control plane, or before this one's data folder was made anew. {_NEW_ONE} NAME"
        )


def _check_purpose(claims: Mapping[str, Any], needed: str) -> None:
    if claims.get("iss") != ISSUER:
        raise MalformedToken(f"the token's issuer is {claims.get('iss')!r}, not {ISSUER!r}. {_NEW_ONE} NAME")
    audience = claims.get("aud")
    allowed = audience if isinstance(audience, list) else [audience]
    if needed not in allowed:
        raise WrongAudience(f"the token is for the audience {audience!r}, needed is {needed!r}. {_NEW_ONE} NAME")


def _check_times(claims: Mapping[str, Any], now: datetime) -> None:
    starts, ends = _moment(claims, "nbf"), _moment(claims, "exp")
    if now >= ends + CLOCK_SKEW:
        owner = str(claims.get("sub")).rpartition(":")[2]
        raise TokenExpired(f"the token expired at {_text(ends)} and it is {_text(now)} here. {_NEW_ONE} {owner}")
    if now < starts - CLOCK_SKEW:
        raise TokenNotYetValid(
            f"the token is valid from {_text(starts)} on and it is {_text(now)} here. Set the clock of this machine, "
            "or of the one where the token was made"
        )


def _moment(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedToken(f"the token has no time in {name!r}. {_NEW_ONE} NAME")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise MalformedToken(f"the token's {name!r} is no time of this calendar. {_NEW_ONE} NAME") from error


def _subject(claims: Mapping[str, Any]) -> tuple[str, str]:
    match str(claims.get("sub")).split(":"):
        case ["system", "serviceaccount", namespace, name] if _LABEL.fullmatch(namespace) and _ACCOUNT.fullmatch(name):
            return namespace, name
    raise MalformedToken(f"the token's subject {claims.get('sub')!r} is not system:serviceaccount:NAMESPACE:NAME")


def account_subject(namespace: str, service_account: str) -> str:
    """A service account as Kubernetes names it: `system:serviceaccount:default:bookinfo-reviews`.

    Raises:
        SettingsError: a name that Kubernetes would not allow.
    """
    _check_names(namespace, service_account)
    return f"system:serviceaccount:{namespace}:{service_account}"


def _number(claims: Mapping[str, Any]) -> str:
    number = claims.get("jti")
    if not isinstance(number, str) or not number:
        raise MalformedToken(f"the token counts once and has no number in 'jti'. {_NEW_ONE} NAME")
    return number


def _check_names(namespace: str, service_account: str) -> None:
    if not _LABEL.fullmatch(namespace):
        raise SettingsError(f"{namespace!r} is no namespace: lower-case letters, digits and -, at most 63, as in `default`")
    if not _ACCOUNT.fullmatch(service_account):
        raise SettingsError(
            f"{service_account!r} is no service account name: lower-case letters, digits, - and ., as in `bookinfo-reviews`"
        )


def _text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
