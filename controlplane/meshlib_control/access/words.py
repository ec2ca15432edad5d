"""What the kinds of objects are called in rules: `virtualservices` of `networking.istio.io`."""

from __future__ import annotations

from typing import Final

OUR_GROUP: Final = "meshlib.dev"
"""The API group of what only this control plane has: proxies, explanations, the certificate authority."""


def resource_of(kind: str) -> str:
    """The plural in lower case, as Kubernetes' CRDs name it: `AuthorizationPolicy` -> `authorizationpolicies`."""
    word = kind.lower()
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    if word.endswith("ss"):
        return f"{word}es"
    return word if word.endswith("s") else f"{word}s"
