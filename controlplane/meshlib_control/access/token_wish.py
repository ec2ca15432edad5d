"""A wish for a token: for whom, for what, for how long; and what one must be allowed to do to get it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from meshlib_control.access.credentials import account_token, user_token
from meshlib_control.access.roles import Act
from meshlib_control.access.words import OUR_GROUP
from meshlib_control.model import ObjectKey
from meshlib_control.tokens import TokenIssuer

JOIN: Final = "join"
API: Final = "api"


@dataclass(frozen=True, slots=True)
class TokenWish:
    """What somebody asks for.

    Args:
        namespace, service_account: whose token; for a person both are empty.
        user, groups: a person, and the groups to be in; such a token is for the API.
        use: `join`: to join the mesh; `api`: to ask the API.
        once: a join token is good for one certificate.
    """

    lifetime: timedelta
    namespace: str = ""
    service_account: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    use: str = JOIN
    once: bool = False

    @property
    def key(self) -> ObjectKey:
        """Whom it stands for, as an object: for the history."""
        if self.user:
            return ObjectKey(OUR_GROUP, "User", "", self.user)
        return ObjectKey("", "ServiceAccount", self.namespace, self.service_account)

    @property
    def act(self) -> Act:
        """What it takes. Kubernetes calls the one for service accounts so, too."""
        if self.user:
            return Act("create", OUR_GROUP, "users/token", "", self.user)
        return Act("create", "", "serviceaccounts/token", self.namespace, self.service_account)

    def sign(self, issuer: TokenIssuer, now: datetime) -> str:
        """The token. Raises SettingsError for impossible names or lifetimes."""
        if self.user:
            return user_token(issuer, self.user, self.groups, now, self.lifetime)
        if self.use == API:
            return account_token(issuer, self.namespace, self.service_account, now, self.lifetime)
        return issuer.create(self.namespace, self.service_account, now, self.lifetime, once=self.once)
