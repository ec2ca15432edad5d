"""SPIFFE ids in Istio's form: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshlib.errors import IdentityError

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")  # SPIFFE-ID 2.1
_SEGMENT = re.compile(r"(?!\.\.?$)[a-zA-Z0-9._-]+")  # SPIFFE-ID 2.2: `.` and `..` are no segments
_FORM = "spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """Who a workload is. Raises IdentityError for parts that SPIFFE does not allow."""

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        if not _TRUST_DOMAIN.fullmatch(self.trust_domain):
            raise IdentityError(
                f"{self.trust_domain!r} is no trust domain: lower-case letters, digits, dots, dashes, underscores"
            )
        for what, value in (("namespace", self.namespace), ("service account", self.service_account)):
            if not _SEGMENT.fullmatch(value):
                raise IdentityError(f"{value!r} is no {what}: letters, digits, dots, dashes, underscores")

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """The id in a URI. Raises IdentityError that shows the form."""
        scheme, _, rest = text.partition("://")
        parts = rest.split("/")
        if scheme != "spiffe" or len(parts) != 5 or (parts[1], parts[3]) != ("ns", "sa"):
            raise IdentityError(f"{text!r} is not of the form {_FORM}")
        return cls(parts[0], parts[2], parts[4])

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"
