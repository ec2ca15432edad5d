"""PeerAuthentication, RequestAuthentication and AuthorizationPolicy (security.istio.io)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meshlib_control.kinds.base import Duration, NonEmpty, Spec
from meshlib_control.kinds.common import LabelSelector, TargetReference, TargetReferences

MtlsMode = Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]
JwksUri = Annotated[str, Meta(min_length=1, max_length=2048)]
ServiceAccounts = Annotated[tuple[Annotated[str, Meta(max_length=320)], ...], Meta(max_length=16)]


class MutualTls(Spec, frozen=True):
    """What a server accepts; UNSET inherits from the next wider policy."""

    mode: MtlsMode = "UNSET"


class PeerAuthentication(Spec, frozen=True):
    """Whether servers ask for mutual TLS. The keys of `port_level_mtls` are ports of the workload, as text."""

    selector: LabelSelector | None = None
    mtls: MutualTls | None = None
    port_level_mtls: Annotated[Mapping[str, MutualTls], Meta(min_length=1)] = {}


class JwtHeader(Spec, frozen=True):
    """A header that holds the token after `prefix`."""

    name: NonEmpty
    prefix: str = ""


class ClaimToHeader(Spec, frozen=True):
    """A claim that is passed on as a header."""

    header: Annotated[str, Meta(min_length=1, pattern=r"^[-_A-Za-z0-9]+$")]
    claim: NonEmpty


class JwtRule(Spec, frozen=True):
    """A kind of token that is accepted."""

    issuer: NonEmpty = ""
    audiences: tuple[NonEmpty, ...] = ()
    jwks_uri: JwksUri = ""
    jwks_uri_snake: JwksUri = msgspec.field(default="", name="jwks_uri")
    jwks: str = ""
    from_headers: tuple[JwtHeader, ...] = ()
    from_params: tuple[NonEmpty, ...] = ()
    from_cookies: tuple[NonEmpty, ...] = ()
    output_payload_to_header: str = ""
    forward_original_token: bool = False
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    timeout: Duration | None = None
    space_delimited_claims: Annotated[tuple[NonEmpty, ...], Meta(max_length=64)] = ()
    presence: Literal["OPTIONAL", "REQUIRED"] = "OPTIONAL"


class RequestAuthentication(Spec, frozen=True):
    """Which tokens of end users are valid."""

    selector: LabelSelector | None = None
    target_ref: TargetReference | None = None
    target_refs: TargetReferences = ()
    jwt_rules: Annotated[tuple[JwtRule, ...], Meta(max_length=4096)] = ()


class Source(Spec, frozen=True):
    """Who asks."""

    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    service_accounts: ServiceAccounts = ()
    not_service_accounts: ServiceAccounts = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()


class From(Spec, frozen=True):
    """One alternative of who asks."""

    source: Source | None = None


class Operation(Spec, frozen=True):
    """What is asked."""

    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class To(Spec, frozen=True):
    """One alternative of what is asked."""

    operation: Operation | None = None


class Condition(Spec, frozen=True):
    """An attribute and its values."""

    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


class Rule(Spec, frozen=True):
    """Holds if some `from`, some `to` and every `when` hold."""

    from_: Annotated[tuple[From, ...], Meta(max_length=512)] = msgspec.field(default=(), name="from")
    to: tuple[To, ...] = ()
    when: tuple[Condition, ...] = ()


class ExtensionProvider(Spec, frozen=True):
    """Who decides for CUSTOM."""

    name: str = ""


class AuthorizationPolicy(Spec, frozen=True):
    """Who may do what. An absent `rules` matches nothing, and so does an empty list."""

    selector: LabelSelector | None = None
    target_ref: TargetReference | None = None
    target_refs: TargetReferences = ()
    rules: Annotated[tuple[Rule, ...], Meta(max_length=512)] = ()
    action: Literal["ALLOW", "DENY", "AUDIT", "CUSTOM"] = "ALLOW"
    provider: ExtensionProvider | None = None
