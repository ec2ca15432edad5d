"""Which tokens of users a port believes, as plain frozen values: Envoy's `jwt_authn` filter (Istio: RequestAuthentication).

`decode_jwt` makes them, `inbound/jwt` obeys them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshlib.config.policy import Filter

METADATA: Final = "envoy.filters.http.jwt_authn"
"""The namespace of the claims in a request's metadata."""


@dataclass(frozen=True, slots=True)
class HeaderLocation:
    """A header that holds a token.

    Args:
        name: in lower case.
        prefix: what stands before the token, wherever in the value; empty: the whole value is the token.
    """

    name: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class ParameterLocation:
    """A query parameter that holds a token."""

    name: str


@dataclass(frozen=True, slots=True)
class CookieLocation:
    """A cookie that holds a token."""

    name: str


Location = HeaderLocation | ParameterLocation | CookieLocation


@dataclass(frozen=True, slots=True)
class ClaimHeader:
    """A claim that the application gets as a header.

    Args:
        header: in lower case.
        claim: names of nested claims, outermost first.
    """

    header: str
    claim: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JwtProvider:
    """An issuer of tokens.

    Args:
        issuer: what `iss` must be; empty: anything.
        audiences: one of them must be in `aud`; empty: anything. Written as `audience` writes them.
        jwks: the issuer's keys, a JSON Web Key Set.
        locations: where its tokens are, in the order in which they are judged.
        forward: the application sees the token, too.
        payload_header: gets the token's middle part as it was written; empty: none does.
        padded_payload: with `=` at its end, as Base64 has it.
        metadata_key: the name of the claims in the metadata of the request; empty: they are not there.
        space_delimited: claims whose text is a list of words there.
        skew: seconds by which clocks may differ.
    """

    name: str
    issuer: str
    jwks: str
    locations: tuple[Location, ...]
    audiences: frozenset[str] = frozenset()
    forward: bool = False
    payload_header: str = ""
    padded_payload: bool = False
    claim_headers: tuple[ClaimHeader, ...] = ()
    metadata_key: str = ""
    space_delimited: tuple[str, ...] = ()
    skew: int = 60

    @property
    def written_headers(self) -> frozenset[str]:
        """Headers that nobody but this provider may write."""
        return frozenset(
            {one.header for one in self.claim_headers} | ({self.payload_header} if self.payload_header else set())
        )


@dataclass(frozen=True, slots=True)
class Provided:
    """All tokens at the provider's locations are good, and there is one."""

    provider: str


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of several requirements is met.

    Args:
        allow_missing: or there is no token.
        allow_failed: or none is met.
    """

    requirements: tuple[Requirement, ...]
    allow_missing: bool = False
    allow_failed: bool = False


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of several requirements are met."""

    requirements: tuple[Requirement, ...]


Requirement = Provided | AnyOf | AllOf


@dataclass(frozen=True, slots=True)
class JwtAuthn(Filter):
    """The tokens of a request are good, or it is refused.

    Args:
        providers: each that a requirement names.
        bypass_preflight: a CORS preflight request carries no credentials, so it needs none.
    """

    providers: tuple[JwtProvider, ...]
    requirement: Requirement
    bypass_preflight: bool = False
