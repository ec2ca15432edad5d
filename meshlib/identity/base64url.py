"""Base64 in the alphabet of URLs (RFC 4648 5), as keys and tokens are written: without padding, or with all of it."""

from __future__ import annotations

import base64
import re
from typing import Final

_WRITTEN: Final = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)
_BLANKS: Final = str.maketrans(dict.fromkeys(" \t\n\v\f\r"))


def decoded(text: str) -> bytes:
    """The bytes. Blanks do not count, as for Envoy (absl::WebSafeBase64Unescape).

    Raises:
        ValueError: there is something else than this alphabet, or padding that does not fit.
    """
    written = text.translate(_BLANKS)
    bare = written.rstrip("=")
    if not _WRITTEN.fullmatch(written) or (bare != written and len(written) % 4):
        raise ValueError("not base64url")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
