"""Who asks the API: the admin token's holder, or whoever an API token was made for.

An API token is a JWT as join tokens are, for the audience `meshlib-api`: neither can be used as the other.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from meshlib.errors import CredentialError, SettingsError
from meshlib_control.access.roles import AUTHENTICATED, MASTERS, Subject
from meshlib_control.authn import bearer_token
from meshlib_control.tokens import MalformedToken, TokenIssuer, account_subject

AUDIENCE: Final = "meshlib-api"
ADMINISTRATOR: Final = Subject("admin", frozenset({MASTERS, AUTHENTICATED}))

_HOW: Final = (
    "Send `Authorization: Bearer TOKEN` with the token in admin.token, in the control plane's data folder, "
    "or one of: meshlib token create --user NAME"
)
_ACCOUNT: Final = "system:serviceaccount:"
_NAME: Final = re.compile(r"[A-Za-z0-9@._+-]{1,128}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Checks the credentials of the API.

    Args:
        admin_token: its holder may do everything.
        issuer: who signs and checks API tokens.
        clock: the time of day, UTC.
    """

    admin_token: str
    issuer: TokenIssuer
    clock: Callable[[], datetime]

    def subject(self, header: str | None) -> Subject:
        """Who sent this `Authorization` header.

        Raises:
            CredentialError: it is missing, wrong, expired, or made for another use.
        """
        if header is None:
            raise CredentialError(f"no credential. {_HOW}")
        token = bearer_token(header, _HOW)
        # In constant time: the answer's delay tells nothing about how many characters were right.
        if hmac.compare_digest(token.encode(), self.admin_token.encode()):
            return ADMINISTRATOR
        if token.count(".") != 2:
            raise CredentialError(f"the admin token is wrong. {_HOW}")
        return _subject(self.issuer.claims(token, AUDIENCE, self.clock()))


def user_token(issuer: TokenIssuer, user: str, groups: Collection[str], now: datetime, lifetime: timedelta) -> str:
    """An API token for a person.

    Raises:
        SettingsError: an impossible name, one that begins with `system:`, or an impossible lifetime.
    """
    for name in (user, *groups):
        if not _NAME.fullmatch(name):
            raise SettingsError(f"{name!r} is no name for a user or group: letters, digits and @._+- only, as in `alice`")
    return issuer.sign(AUDIENCE, user, now, lifetime, groups=sorted(groups))


def account_token(issuer: TokenIssuer, namespace: str, service_account: str, now: datetime, lifetime: timedelta) -> str:
    """An API token for a program with a service account.

    Raises:
        SettingsError: a name that Kubernetes would not allow, or an impossible lifetime.
    """
    return issuer.sign(AUDIENCE, account_subject(namespace, service_account), now, lifetime)


def _subject(claims: Any) -> Subject:
    name, groups = claims.get("sub"), claims.get("groups", [])
    if not isinstance(name, str) or not name or not isinstance(groups, list):
        raise MalformedToken(f"the token names nobody. {_HOW}")
    if name.startswith(_ACCOUNT):
        namespace = name.removeprefix(_ACCOUNT).partition(":")[0]
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    return Subject(name, frozenset({AUTHENTICATED, *map(str, groups)}))
