"""The credential of a process that holds a certificate: a JWT signed with the certificate's key, good for a minute.

It stands where a join token stands (`authorization: Bearer ...`), so that a certificate renews itself long after the join
token is over. In Istio workloads show their certificate in TLS for that; grpcio's servers cannot ask for a certificate
without demanding one, which those who join for the first time do not have.

Rule 1: the certificate says who it is, the claims only repeat it; a chain that does not lead to the root says nothing.
Rule 2: the algorithm is ours, and the key is the leaf's: `alg` is compared, and a header with more in it is refused.
Rule 3: nobody remembers which assertions were seen. They travel inside TLS to a control plane whose certificate was
checked, so whoever could repeat one within its minute has broken that TLS or is the control plane. And gRPC itself repeats
a call whose connection ended before the server took it: the second, honest one would be refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

from meshlib.errors import CredentialError, IdentityError
from meshlib.identity.chain import ProvenLeaf, proven_leaf
from meshlib.identity.leaf import leaf_from_der
from meshlib.identity.spiffe import SpiffeId

AUDIENCE = "istio-ca"
ISSUER = "meshlib-workload"

LIFETIME = 60  # seconds
LONGEST_LIFETIME = 300  # seconds: who wants a credential for longer must ask the control plane
CLOCK_SKEW = 60  # seconds
LONGEST = 7 * 1024  # characters: gRPC's default for all metadata of a call is 8 KiB
MOST_CERTIFICATES = 4  # leaf and intermediates

_ALGORITHM = "ES256"
_HEADER = {"alg", "typ", "x5c"}
_AGAIN = "Join again with a token: meshlib token create --service-account"


class AssertionRefused(CredentialError):
    """An assertion that proves nothing; the text says which check failed."""


def make(chain_pem: str, key_pem: bytes, now: float, number: str) -> str:
    """An assertion that its holder has the leaf's key.

    Args:
        chain_pem: leaf first, then intermediates, without the root.
        key_pem: the leaf's private key, P-256; used in memory only.
        now: seconds since the epoch.
        number: makes it unique (`jti`).

    Raises:
        IdentityError: the chain or the key cannot be used, or the leaf names no SPIFFE id.
    """
    try:
        chain = [one.public_bytes(serialization.Encoding.DER) for one in x509.load_pem_x509_certificates(chain_pem.encode())]
        key = _own_key(key_pem)
        header = {"alg": _ALGORITHM, "x5c": [base64.b64encode(der).decode() for der in chain]}
        return jwt.encode(header, _claims_of(chain[0], int(now), number), key, registry=_registry())
    except (ValueError, JoseError) as error:
        raise IdentityError(f"no assertion can be made with this certificate: {error}") from error


def is_assertion(credential: str) -> bool:
    """Whether a bearer credential is one of these, right or wrong: its header brings certificates. Join tokens do not."""
    return "x5c" in _header(credential)


def verify(
    credential: str, roots_pem: bytes, trust_domains: tuple[str, ...], now: float, revoked_pem: bytes = b""
) -> SpiffeId:
    """Whom an assertion stands for.

    Args:
        roots_pem: our own roots.
        trust_domains: those whose identities count; the mesh's own first.
        now: seconds since the epoch.
        revoked_pem: lists of certificates that count no more; empty: there are none.

    Raises:
        AssertionRefused: it is malformed, too long, signed by another key; its chain, identity, audience or times are wrong.
    """
    chain = _chain(credential)
    try:
        proven = proven_leaf(chain, roots_pem, now, CLOCK_SKEW, revoked_pem)
        identity = SpiffeId.parse(proven.leaf.spiffe_id)
    except IdentityError as error:
        raise AssertionRefused(f"{error}. {_AGAIN} NAME") from error
    if identity.trust_domain not in trust_domains:
        found, own = identity.trust_domain, trust_domains[0]
        raise AssertionRefused(f"the certificate is of trust domain {found!r}, this one is {own!r}")
    claims = _signed_claims(credential, proven)
    _check_purpose(claims, proven.leaf.spiffe_id)
    _check_times(claims, now)
    return identity


def _own_key(key_pem: bytes) -> ECKey:
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):  # joserfc would find out later, and in its own way
        raise ValueError("its key must be P-256")
    return ECKey.import_key(key_pem)


def _claims_of(leaf_der: bytes, now: int, number: str) -> dict[str, Any]:
    spiffe_id = leaf_from_der(leaf_der).spiffe_id
    times = {"iat": now, "nbf": now, "exp": now + LIFETIME}
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": spiffe_id, **times, "jti": number}


def _registry() -> JWSRegistry:
    registry = JWSRegistry(algorithms=[_ALGORITHM])
    registry.max_header_length = LONGEST  # 512 by default, where it is limited at all: too little for a certificate
    return registry


def _header(credential: str) -> Mapping[str, Any]:
    """The first part, not to be believed; empty if it is none."""
    first, dot, _ = credential.partition(".")
    if not dot or len(credential) > LONGEST:
        return {}
    try:
        header = json.loads(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
    except (ValueError, RecursionError):  # thousands of brackets fit in the length
        return {}
    return header if isinstance(header, dict) else {}


def _chain(credential: str) -> list[bytes]:
    """The certificates of the header, DER, once the header is one that we would write."""
    if len(credential) > LONGEST:
        raise AssertionRefused(f"the assertion has {len(credential)} characters, at most {LONGEST} are read")
    header = _header(credential)
    if header.get("alg") != _ALGORITHM:
        raise AssertionRefused(f"the assertion must be signed with {_ALGORITHM}, it says otherwise")
    if set(header) != _HEADER:
        raise AssertionRefused(f"the assertion's header must hold {', '.join(sorted(_HEADER))} and nothing else")
    certificates = header["x5c"]
    if not isinstance(certificates, list) or not 1 <= len(certificates) <= MOST_CERTIFICATES:
        raise AssertionRefused(f"the assertion's x5c must hold 1 to {MOST_CERTIFICATES} certificates")
    try:
        return [base64.b64decode(one, validate=True) for one in certificates]
    except (TypeError, ValueError) as error:
        raise AssertionRefused("the assertion's x5c is not base64 (RFC 7515 4.1.6)") from error


def _signed_claims(credential: str, proven: ProvenLeaf) -> Mapping[str, Any]:
    try:
        claims: object = jwt.decode(credential, ECKey.import_key(proven.key_pem), registry=_registry()).claims
    except (JoseError, ValueError, RecursionError) as error:
        raise AssertionRefused(
            f"the assertion is not signed with the key of the certificate of {proven.leaf.spiffe_id}"
        ) from error
    if not isinstance(claims, dict):  # older releases of joserfc let any JSON pass
        raise AssertionRefused("the assertion's claims are no object")
    return claims


def _check_purpose(claims: Mapping[str, Any], spiffe_id: str) -> None:
    if claims.get("iss") != ISSUER:
        raise AssertionRefused(f"the assertion's issuer is {claims.get('iss')!r}, not {ISSUER!r}")
    if claims.get("aud") != AUDIENCE:
        raise AssertionRefused(f"the assertion is for the audience {claims.get('aud')!r}, needed is {AUDIENCE!r}")
    if claims.get("sub") != spiffe_id:
        raise AssertionRefused(f"the assertion is about {claims.get('sub')!r}, its certificate about {spiffe_id!r}")


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    issued, starts, ends = (_time(claims, name) for name in ("iat", "nbf", "exp"))
    if not 0 < ends - min(issued, starts) <= LONGEST_LIFETIME:
        raise AssertionRefused(f"the assertion must live for at most {LONGEST_LIFETIME} s")
    if now < max(issued, starts) - CLOCK_SKEW:
        early = round(max(issued, starts) - now)
        raise AssertionRefused(f"the assertion is valid in {early} s only. Set the clock of this machine, or of the other one")
    if now >= ends + CLOCK_SKEW:
        late = round(now - ends)
        raise AssertionRefused(f"the assertion was over {late} s ago. Set the clock of this machine, or of the other one")


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    # The bounds keep out NaN and infinity, which Python's JSON reads, and integers too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise AssertionRefused(f"the assertion has no time in {name!r}")
    return value
