"""x-forwarded-client-cert: what the application is told of the peer's certificate.

Envoy calls this form SANITIZE_SET: what the client sent under that name is removed always, for it proves nothing, and the
header is set from the connection's own certificate if there is one.
"""

from __future__ import annotations

from meshlib.facts import Peer

HEADER = "x-forwarded-client-cert"


def forwarded_client_cert(ours: str, peer: Peer) -> str | None:
    """The header's value, None for a peer without a certificate.

    Args:
        ours: our own SPIFFE id, for `By`; empty while we hold no certificate.

    Subject is empty: Istio's certificates carry the identity as URI only.
    """
    if not peer.secured:
        return None
    return f'By={ours};Hash={peer.certificate_hash};Subject="";URI={peer.spiffe_id}'


def forged(name: str) -> bool:
    """Whether a header must not reach the application as the client sent it.

    CGI's rule, which WSGI keeps, makes one variable of `x-forwarded-client-cert` and `x_forwarded_client_cert`: both count.

    Args:
        name: in any case.
    """
    return name.replace("_", "-").lower() == HEADER
