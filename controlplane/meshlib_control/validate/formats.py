"""Forms that single values must have. Each function answers with what is wrong, or with "" if nothing is.

Sources: Istio's pkg/config/validation and pkg/config/validation/agent; Kubernetes' DNS-1123 names.
"""

from __future__ import annotations

import ipaddress
import re
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

MAX_REGEX: Final = 1024  # Istio: larger programs could pass here and be refused by Envoy

_LABEL: Final = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?")
_WILDCARD_LABEL: Final = re.compile(r"\*|(\*|\*-)?[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
_HEADER: Final = re.compile(r"[-_.A-Za-z0-9]+")
_CLAIM_KEY: Final = re.compile(r"@request\.auth\.claims(\..+|\[.+\])", re.IGNORECASE)
_PSEUDO_HEADERS: Final = frozenset({":method", ":scheme", ":authority", ":path", ":status"})
# Envoy, custom request headers: a percent sign is doubled, or opens and closes a command.
_HEADER_VALUE: Final = re.compile(r"([^%\x00-\x08\x0a-\x1f\x7f]|%%|%[A-Z_0-9]+(\([^)]*\))?(:\d+)?%)*")
_PROTOCOLS: Final = frozenset(
    {"http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "udp", "mongo", "redis", "mysql", "http_proxy", "hbone"}
)
_HTTP_PROTOCOLS: Final = frozenset({"http", "http2", "grpc", "grpc-web", "http_proxy"})
_TLS_PROTOCOLS: Final = frozenset({"https", "tls"})

RETRY_CONDITIONS: Final = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "envoy-ratelimited",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    }
)


def label(text: str) -> str:
    """A DNS-1123 label: a namespace, a subset, a port name."""
    return "" if _LABEL.fullmatch(text) else f'"{text}" is not a valid name: letters, digits and -, at most 63 characters'


def fqdn(host: str) -> str:
    """A host without wildcard; short names count (`reviews`)."""
    return _length(host) or _labels(host, host)


def wildcard_host(host: str) -> str:
    """A host whose first label may be or begin with `*`."""
    first, dot, rest = host.partition(".")
    if _length(host):
        return _length(host)
    if len(first) > 63 or not _WILDCARD_LABEL.fullmatch(first):
        return f'the host "{host}" is not valid: look at "{first}"'
    return _labels(rest, host) if dot else ""


def _length(host: str) -> str:
    if not host:
        return "the host is empty"
    return f'the host "{host}" is longer than 255 characters' if len(host) > 255 else ""


def _labels(text: str, host: str) -> str:
    parts = text.removesuffix(".").split(".")
    if parts[-1].isdigit():
        return f'the host "{host}" is not valid: it ends with a number'
    wrong = next((part for part in parts if not _LABEL.fullmatch(part)), None)
    return "" if wrong is None else f'the host "{host}" is not valid: look at "{wrong}"'


def qualified_host(host: str) -> str:
    """A host of a gateway or sidecar: `*`, or with a dot; a wildcard only as the whole first label."""
    if host != "*" and "." not in host:
        return f'the short host "{host}" is not allowed here'
    if "*" in host and host != "*" and not host.startswith("*."):
        return f'the partial wildcard "{host}" is not allowed'
    return wildcard_host(host)


def is_ip(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address."""
    return not ip(text)


def ip(text: str) -> str:
    """An IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return f'"{text}" is not an IP address'
    return ""


def subnet(text: str) -> str:
    """An IP address, or a block of them (`10.1.0.0/16`); bits behind the mask may be set."""
    if "/" not in text:
        return ip(text)
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f'"{text}" is not a valid CIDR block'
    return ""


def port(number: int) -> str:
    """A port number."""
    return "" if 0 < number < 65536 else f"Invalid value: {number}: port must be between 1-65535"


def port_text(text: str) -> str:
    """A port number written as text."""
    return "" if text.isascii() and text.isdigit() and int(text) < 65536 else f'"{text}" is not a port number'


def protocol(name: str) -> str:
    """A protocol that Istio knows; empty means: find out."""
    known = not name or name.lower() in _PROTOCOLS
    return (
        ""
        if known
        else f'unsupported protocol "{name}": use HTTP, HTTP2, HTTPS, GRPC, GRPC-WEB, TCP, TLS, MONGO, REDIS or MYSQL'
    )


def is_http(name: str) -> bool:
    """Whether requests can be seen inside the protocol."""
    return name.lower() in _HTTP_PROTOCOLS


def is_tls(name: str) -> bool:
    """Whether the protocol is encrypted by the caller."""
    return name.lower() in _TLS_PROTOCOLS


def regex(text: str) -> str:
    """A regular expression that RE2 accepts."""
    import re2  # here, because most meshes have no regular expression and the import costs milliseconds

    if not text:
        return "the regular expression is empty"
    if len(text) > MAX_REGEX:
        return f"the regular expression is too large: at most {MAX_REGEX} characters"
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text_reason = reason.decode() if isinstance(reason, bytes) else str(reason)
        return f"not a regular expression that RE2 accepts: {text_reason}"
    return ""


def header_name(name: str) -> str:
    """A header to look at: a plain or pseudo header, or a claim (`@request.auth.claims.group`)."""
    if is_claim(name) or name in _PSEUDO_HEADERS:
        return ""
    return "" if _HEADER.fullmatch(name) else f'"{name}" is not a valid header name'


def plain_header_name(name: str) -> str:
    """A header of the application's own."""
    return "" if _HEADER.fullmatch(name) else f'"{name}" is not a valid header name'


def is_claim(name: str) -> bool:
    """Whether a header key means a claim of the token."""
    return bool(_CLAIM_KEY.fullmatch(name))


def is_authority(name: str) -> bool:
    """Whether a header is the request's authority."""
    return name.lower() in {":authority", "host"}


def settable_header(name: str, authority: bool) -> str:
    """A header that may be set, added or removed; the authority only where `authority` says so."""
    if not name:
        return "header name cannot be empty"
    if is_authority(name):
        return "" if authority else f'invalid header "{name}": cannot set Host header'
    return f'invalid header "{name}": header cannot have ":" prefix' if name.startswith(":") else ""


def header_value(value: str) -> str:
    """A header value as Envoy's formatter takes it."""
    if _HEADER_VALUE.fullmatch(value):
        return ""
    return f'header value "{value}" is not valid: write %% for a percent sign'


def http_status(status: int) -> str:
    """The status of an answer that the mesh gives. Istio's check lets 600 pass; its text says 599, and so do we."""
    return "" if 200 <= status <= 599 else f"HTTP status {status} is not in range 200-599"


def retry_condition(word: str) -> str:
    """One of Envoy's conditions, or a status code."""
    if word in RETRY_CONDITIONS or (word.isdigit() and int(word) in _STATUSES):
        return ""
    return f'"{word}" is not a valid retryOn policy'


_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)


def unix_address(path: str) -> str:
    """What follows `unix://`."""
    if path.startswith("@"):
        return ""
    if not path.startswith("/"):
        return "UDS must be an absolute path or abstract socket"
    return "UDS may not be a dir" if path.endswith("/") else ""


def url_scheme(url: str) -> str | None:
    """The scheme in lower case; None if it is no URL."""
    try:
        return urlsplit(url).scheme.lower() if not re.search(r"[\\\s]", url) else None
    except ValueError:
        return None
