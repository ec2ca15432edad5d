"""What ASGI's TLS extension says about a connection (https://asgi.readthedocs.io/en/latest/specs/tls.html)."""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Any

_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def tls_extension(session: ssl.SSLObject) -> dict[str, Any]:
    """The extension's value for an established session. The certificates of the mesh have an empty subject: the identity is
    the URI in `client_cert_chain`'s leaf, as `scope["extensions"]["meshlib.peer"].spiffe_id` says it.
    """
    leaf = session.getpeercert(binary_form=True)
    cipher = session.cipher()
    return {
        "server_cert": None,  # "if the server is unable to provide it": `ssl` does not show one's own
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(leaf)] if leaf else [],
        "client_cert_name": "" if leaf else None,
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(session.version() or ""),
        "cipher_suite": _suites().get(cipher[0]) if cipher else None,
    }


@lru_cache(maxsize=1)
def _suites() -> dict[str, int]:
    """OpenSSL's cipher names to IANA's 16-bit numbers; the upper bits of OpenSSL's ids are its own."""
    known = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).get_ciphers()
    return {cipher["name"]: cipher["id"] & 0xFFFF for cipher in known}
