"""RequestAuthentication."""

from __future__ import annotations

import json
from collections.abc import Iterator

from meshlib_control.kinds import RequestAuthentication
from meshlib_control.kinds.security import JwtRule
from meshlib_control.mistakes import Mistake, item
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats
from meshlib_control.validate.common import target_references


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a RequestAuthentication."""
    spec: RequestAuthentication = found.spec
    yield from target_references(spec.selector, spec.target_ref, spec.target_refs, found.raw.get("spec", {}))
    for index, rule in enumerate(spec.jwt_rules):
        yield from _rule(rule, item("spec.jwtRules", index))


def _rule(rule: JwtRule, path: str) -> Iterator[Mistake]:
    uri = rule.jwks_uri or rule.jwks_uri_snake
    if sum(map(bool, (rule.jwks_uri, rule.jwks_uri_snake, rule.jwks))) > 1:
        yield Mistake(path, "only one of jwks or jwksUri can be set")
    if not rule.issuer and not uri:
        yield Mistake(f"{path}.issuer", "issuer or jwksUri must be non-empty")
    if uri and formats.url_scheme(uri) not in {"http", "https"}:
        yield Mistake(f"{path}.jwksUri", f'Invalid value: "{uri}": url must have scheme http:// or https://')
    if rule.jwks and not _is_key_set(rule.jwks):
        yield Mistake(f"{path}.jwks", "not a JSON Web Key Set")


def _is_key_set(text: str) -> bool:
    try:
        keys = json.loads(text)
    except ValueError:
        return False
    return isinstance(keys, dict) and (isinstance(keys.get("keys"), list) or "kty" in keys)
