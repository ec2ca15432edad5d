"""x-forwarded-client-cert: what the application is told of the peer's certificate.

Envoy calls this form SANITIZE_SET: what the client sent under that name is removed always, for it proves nothing, and the
header is set from the connection's own certificate if there is one.
"""

from __future__ import annotations

from functools import lru_cache

from meshlib.facts import Peer
from meshlib.telemetry.records import REMOVED_HEADERS

HEADER = "x-forwarded-client-cert"

WITHHELD = frozenset({HEADER, *REMOVED_HEADERS})
"""Names, in lower case, that never reach the application as the client sent them."""


def forwarded_client_cert(ours: str, peer: Peer) -> str | None:
    """The header's value, None for a peer without a certificate.

    Args:
        ours: our own SPIFFE id, for `By`; empty while we hold no certificate.

    Subject is empty: Istio's certificates carry the identity as URI only.
    """
    if not peer.secured:
        return None
    return f'By={ours};Hash={peer.certificate_hash};Subject="";URI={peer.spiffe_id}'


@lru_cache(maxsize=1024)  # the same few names come with every request
def forged(name: str) -> bool:
    """Whether a header says what only the mesh may say, and so is not believed from a client.

    CGI's rule, which WSGI keeps, makes one variable of `x-forwarded-client-cert` and `x_forwarded_client_cert`: both count.

    Args:
        name: in any case.
    """
    return _plain(name) == HEADER


@lru_cache(maxsize=1024)
def withheld(name: str) -> bool:
    """Whether a header must not reach the application as the client sent it: forged, or meant for the mesh only."""
    return _plain(name) in WITHHELD


def _plain(name: str) -> str:
    return name.replace("_", "-").lower()
