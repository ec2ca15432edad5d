"""Who is calling: from a credential to a Caller. Nothing the client says about itself is believed.

Three credentials count. In `authorization: Bearer ...`, a join token, or an assertion signed with the key of a certificate of
ours; on the connection, a client certificate of ours. If there is a bearer, it decides: it is the newer statement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import grpc

from meshlib.errors import CredentialError, IdentityError, MeshError
from meshlib.identity import assertion
from meshlib.identity.revocation import refuse_revoked
from meshlib.identity.spiffe import SpiffeId

from .tokens import TokenIssuer
from .used_tokens import UsedTokens

_HOW = "Send `authorization: Bearer TOKEN` with a token of: meshlib token create --service-account NAME"

Metadata = Iterable[tuple[str, str | bytes]]
AuthContext = Mapping[str, Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Caller:
    """A client whose credential was checked."""

    identity: SpiffeId

    @property
    def spiffe_id(self) -> str:
        """As text: `spiffe://cluster.local/ns/default/sa/bookinfo-reviews`."""
        return str(self.identity)

    @property
    def namespace(self) -> str:
        """The namespace of its service account."""
        return self.identity.namespace

    @property
    def service_account(self) -> str:
        """The name of its service account."""
        return self.identity.service_account


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Checks the credentials of services.

    Args:
        tokens: who signs and checks join tokens.
        trust_domain: of the identities given out, `cluster.local`.
        used: which of the tokens that count once were used.
        aliases: gives the names that this had before: who shows a certificate of one of them gets identities of the new one.
        clock: the time of day, UTC.
        roots: gives the PEM of whom certificates may lead to.
        revoked: gives the PEM of lists of certificates that count no more.
    """

    tokens: TokenIssuer
    trust_domain: str
    clock: Callable[[], datetime]
    roots: Callable[[], bytes]
    revoked: Callable[[], bytes] = bytes
    aliases: Callable[[], Collection[str]] = tuple
    used: UsedTokens = field(default_factory=UsedTokens)

    def caller(self, metadata: Metadata, auth_context: AuthContext | None = None, *, joining: bool = False) -> Caller:
        """The caller that a gRPC call's metadata, or its connection's client certificate, prove.

        Args:
            joining: it asks for a certificate, for which some tokens count once.

        Raises:
            CredentialError: no credential, or a wrong one; the text says which check failed.
        """
        header = bearer_header(metadata)
        if header is None:
            return self._certified(auth_context or {})
        return Caller(self._bearer(bearer_token(header, _HOW), joining))

    async def grpc_caller(self, context: Any, *, joining: bool = False) -> Caller:
        """The caller of a `grpc.aio` call; a wrong credential ends the call with UNAUTHENTICATED and the reason."""
        try:
            return self.caller(context.invocation_metadata() or (), context.auth_context(), joining=joining)
        except CredentialError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise  # never reached: abort raises

    def _bearer(self, credential: str, joining: bool) -> SpiffeId:
        if assertion.is_assertion(credential):
            domains = (self.trust_domain, *self.aliases())
            found = assertion.verify(credential, self.roots(), domains, self.clock().timestamp(), self.revoked())
            return replace(found, trust_domain=self.trust_domain)
        now = self.clock()
        account = self.tokens.verify(credential, now)
        (self.used.take if joining else self.used.check)(account, now)
        return SpiffeId(self.trust_domain, account.namespace, account.name)

    def _certified(self, auth_context: AuthContext) -> Caller:
        # grpcio has verified the chain against our roots before it fills this in.
        for value in auth_context.get("peer_spiffe_id", ()):
            for certificate in auth_context.get("x509_pem_cert", ()):
                self._refuse_revoked(certificate)
            return Caller(self._own_identity(value.decode()))
        raise CredentialError(f"no credential. {_HOW}")

    def _refuse_revoked(self, pem: bytes) -> None:
        # grpcio's server has no place for revocation lists.
        try:
            refuse_revoked(pem, self.revoked())
        except IdentityError as error:
            raise CredentialError(f"{error}. {_HOW}") from error

    def _own_identity(self, text: str) -> SpiffeId:
        try:
            identity = SpiffeId.parse(text)
        except MeshError as error:
            raise CredentialError(f"the client certificate names no service account: {error}. {_HOW}") from error
        if identity.trust_domain not in (self.trust_domain, *self.aliases()):
            raise CredentialError(
                f"the client certificate is of trust domain {identity.trust_domain!r}, this one is {self.trust_domain!r}"
            )
        return replace(identity, trust_domain=self.trust_domain)


def bearer_header(metadata: Metadata) -> str | None:
    """The `authorization` entry of a call's metadata, or None."""
    for name, value in metadata:
        if name.lower() == "authorization":
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def bearer_token(header: str, how: str) -> str:
    """The token of an `authorization` header (RFC 6750 2.1; the scheme's name in any case).

    Args:
        how: where to get a right one, for the error.

    Raises:
        CredentialError: another scheme, or nothing after it.
    """
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise CredentialError(f"the authorization header is not of the form `Bearer TOKEN`. {how}")
    return token.strip()
