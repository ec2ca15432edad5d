"""Envoy's `jwt_authn` filter -> `meshlib.config.jwt`. Part of `decode`, and under its rules.

Read is what Istio writes: keys inline, one rule for all paths, requirements of providers, any, all and "or no token". The rest
is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshlib.config.jwt import (
    AllOf,
    AnyOf,
    ClaimHeader,
    CookieLocation,
    HeaderLocation,
    JwtAuthn,
    JwtProvider,
    Location,
    ParameterLocation,
    Provided,
    Requirement,
)
from meshlib.errors import ConfigurationError
from meshlib.identity.jwt import CLOCK_SKEW, audience

_REFUSED = ("filter_state_rules", "requirement_map", "strip_failure_response")
_REFUSED_OF_PROVIDERS = (
    "subjects",
    "require_expiration",
    "max_lifetime",
    "remote_jwks",
    "header_in_metadata",
    "failed_status_in_metadata",
)


def jwt_authn(body: Any, place: str) -> JwtAuthn | None:
    """The filter; None if it asks nothing of anybody. Raises ConfigurationError."""
    _refuse(body, _REFUSED, place)
    if not body.rules:
        return None
    requirement = _rule(body, f"{place}.rules[0]")
    names = set(_named(requirement))
    missing = names - set(body.providers)
    if missing:
        raise ConfigurationError(f"there is no provider {min(missing)!r}", field=f"{place}.rules[0]")
    providers = tuple(_provider(name, body.providers[name], f"{place}.providers[{name!r}]") for name in sorted(names))
    return JwtAuthn(providers, requirement, bool(body.bypass_cors_preflight))


def _refuse(body: Any, names: tuple[str, ...], place: str) -> None:
    written = {descriptor.name for descriptor, _ in body.ListFields()}
    for name in names:
        if name in written:
            raise ConfigurationError("is not supported", field=f"{place}.{name}")


def _rule(body: Any, place: str) -> Requirement:
    rule = body.rules[0]
    everything = rule.match.WhichOneof("path_specifier") == "prefix" and rule.match.prefix == "/"
    if len(body.rules) > 1 or not everything or rule.match.headers or rule.match.query_parameters:
        raise ConfigurationError("only one rule, for all requests, is supported", field=place)
    if rule.WhichOneof("requirement_type") != "requires":
        raise ConfigurationError("only `requires` is supported", field=place)
    return _requirement(rule.requires, f"{place}.requires")


def _requirement(body: Any, place: str) -> Requirement:
    kind = body.WhichOneof("requires_type")
    if kind == "provider_name":
        return Provided(body.provider_name)
    if kind == "requires_any":
        return _any(body.requires_any.requirements, f"{place}.requires_any")
    if kind == "requires_all":
        inner = body.requires_all.requirements
        return AllOf(tuple(_requirement(one, f"{place}.requires_all[{index}]") for index, one in enumerate(inner)))
    raise ConfigurationError(f"the requirement {kind or '(none)'} is not supported here", field=place)


def _any(inner: Any, place: str) -> AnyOf:
    kinds = [one.WhichOneof("requires_type") for one in inner]
    requirements = tuple(
        _requirement(one, f"{place}[{index}]")
        for index, (one, kind) in enumerate(zip(inner, kinds, strict=True))
        if kind not in ("allow_missing", "allow_missing_or_failed")
    )
    if not requirements:
        raise ConfigurationError("at least one provider is needed", field=place)
    return AnyOf(requirements, "allow_missing" in kinds, "allow_missing_or_failed" in kinds)


def _named(requirement: Requirement) -> Iterator[str]:
    if isinstance(requirement, Provided):
        yield requirement.provider
    else:
        for inner in requirement.requirements:
            yield from _named(inner)


def _provider(name: str, body: Any, place: str) -> JwtProvider:
    _refuse(body, _REFUSED_OF_PROVIDERS, place)
    return JwtProvider(
        name=name,
        issuer=body.issuer,
        jwks=_keys(body.local_jwks, f"{place}.local_jwks"),
        locations=_locations(body),
        audiences=frozenset(map(audience, body.audiences)),
        forward=bool(body.forward),
        payload_header=body.forward_payload_header.lower(),
        padded_payload=bool(body.pad_forward_payload_header),
        claim_headers=tuple(
            ClaimHeader(one.header_name.lower(), tuple(one.claim_name.split("."))) for one in body.claim_to_headers
        ),
        metadata_key=body.payload_in_metadata,
        space_delimited=tuple(body.normalize_payload_in_metadata.space_delimited_claims),
        skew=int(body.clock_skew_seconds) or CLOCK_SKEW,
    )


def _keys(source: Any, place: str) -> str:
    kind = source.WhichOneof("specifier")
    if kind == "inline_string":
        return str(source.inline_string)
    if kind == "inline_bytes":
        return str(
            source.inline_bytes.decode("utf-8", "replace")
        )  # what is no UTF-8 is no key set, and no key proves anything
    raise ConfigurationError("keys must be inline", field=place)


def _locations(body: Any) -> tuple[Location, ...]:
    """Envoy: sorted headers, parameters, cookies, judged from the last to the first."""
    headers = {one.name.lower() + one.value_prefix: one for one in body.from_headers}
    found: list[Location] = [
        *(HeaderLocation(headers[key].name.lower(), _as_text(headers[key].value_prefix)) for key in sorted(headers)),
        *(ParameterLocation(_as_text(name)) for name in sorted(set(body.from_params))),
        *(CookieLocation(_as_text(name)) for name in sorted(set(body.from_cookies))),
    ]
    return tuple(reversed(found or [HeaderLocation("authorization", "Bearer "), ParameterLocation("access_token")]))


def _as_text(written: str) -> str:
    """UTF-8 shown as latin-1, as texts of requests are."""
    return written.encode().decode("latin-1")
