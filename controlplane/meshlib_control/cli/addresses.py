"""URLs and addresses that options name."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from .failure import USAGE, Failure


def http_url(text: str, option: str, example: str, schemes: Collection[str] = ("http",)) -> SplitResult:
    """A URL with a host, and with a port that exists if there is one; `http://` may be left out.

    Raises:
        Failure: it is none; names the option and shows the example.
    """
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        usable = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or beyond 65535
        usable = False
    if not usable:
        raise Failure(f"{option} {text!r} is no URL", f"{option} {example}", USAGE)
    return parts


def host_and_port(text: str, option: str, example: str) -> str:
    """`HOST:PORT` as it is. Raises Failure as `http_url`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise Failure(f"{option} {text!r} is no address", f"{option} {example}", USAGE)
    return text
