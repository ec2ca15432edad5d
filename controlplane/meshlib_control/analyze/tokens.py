"""Keys that tokens of users are checked with: there are some, and they can be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from meshlib.identity.jwk import read_keys
from meshlib_control.analyze.finding import finding
from meshlib_control.key_set import key_source
from meshlib_control.kinds import RequestAuthentication
from meshlib_control.mistakes import item
from meshlib_control.model import Finding, MeshObject, Severity, World

NO_KEYS: Final = "MSH0005"


def request_authentication(world: World, found: MeshObject) -> Iterator[Finding]:
    """What every token is refused for, whoever signed it."""
    spec: RequestAuthentication = found.spec
    for index, rule in enumerate(spec.jwt_rules):
        path = item("spec.jwtRules", index)
        source = key_source(rule)
        if rule.jwks and not read_keys(rule.jwks):
            text = f"none of these keys can be used: every token of {rule.issuer} is refused"
            advice = "RSA from 1024 bits, P-256, P-384, P-521, Ed25519 and oct keys can be used"
            yield finding(NO_KEYS, Severity.ERROR, found, f"{path}.jwks", text, advice)
        elif not rule.jwks and source in world.key_problems:
            held = "the last good keys hold" if source in world.key_sets else "until it gives some, its tokens are refused"
            text = f"{source} gives no keys: {world.key_problems[source]}; {held}"
            yield finding(NO_KEYS, Severity.WARNING, found, path, text)
