"""Base64 in the alphabet of URLs (RFC 4648 5), as keys and tokens are written: without padding, or with all of it."""

from __future__ import annotations

import base64
import re
from typing import Final

_WRITTEN: Final = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)


def decoded(text: str) -> bytes:
    """The bytes. Raises ValueError for anything else than this alphabet, and for padding that does not fit."""
    if not _WRITTEN.fullmatch(text) or (text.endswith("=") and len(text) % 4):
        raise ValueError("not base64url")
    return base64.urlsafe_b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
