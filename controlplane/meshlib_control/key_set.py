"""Where the keys come from that tokens of users are checked with, and what is a key set."""

from __future__ import annotations

import json
from typing import Any, Final

from meshlib.identity.jwk import read_keys
from meshlib_control.kinds.security import JwtRule
from meshlib_control.model import KeySource

NOBODYS_KEYS: Final = json.dumps(
    {
        "keys": [
            {
                "kty": "EC",
                "crv": "P-256",
                "x": "M8y3WHZsGLfSrrNYRj0DWpeejGxmjI9aIXS_HSEowGM",
                "y": "apQvgsqL2GP8S4ixqWIokaolHYBmLOnvuku2o2YIUpU",
            }
        ]
    }
)
"""Keys to refuse every token with, as none is no valid configuration. Nobody knows the private one: x is the SHA-256 of
`meshlib: nobody signs with this key 0`, which happens to be on the curve, and y the smaller of the two that belong to it."""


class NoKeySet(ValueError):
    """Bytes that are no JSON Web Key Set, or one without a key that can be used."""


def key_source(rule: JwtRule) -> KeySource:
    """Where the keys of a rule are, if it does not bring them itself."""
    return KeySource(rule.jwks_uri or rule.jwks_uri_snake, rule.issuer)


def key_set(content: bytes) -> str:
    """A key set in one form: equal for equal keys, however they are written and ordered.

    Raises:
        NoKeySet: it is none. Something else must not be handed to everybody in the mesh (Istio: validateJWKSFormat).
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NoKeySet("what is there is no JSON") from error
    keys: Any = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise NoKeySet('what is there is no JSON Web Key Set: {"keys": [...]}')
    written = sorted(json.dumps(key, sort_keys=True, separators=(",", ":")) for key in keys)
    text = f'{{"keys":[{",".join(written)}]}}'
    if not read_keys(text):
        raise NoKeySet("none of its keys can be used to check signatures")
    return text
