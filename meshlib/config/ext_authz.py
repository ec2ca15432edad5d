"""External authorization (envoy.filters.http.ext_authz) as plain frozen values: the words are xDS's, the protobuf is gone."""

from __future__ import annotations

from dataclasses import dataclass

from meshlib.config.model import StringMatch
from meshlib.config.policy import Filter, Metadata
from meshlib.facts import Headers

Names = tuple[StringMatch, ...]
"""Names of headers: one of the comparisons holds."""


@dataclass(frozen=True, slots=True)
class GrpcAuthorizer:
    """Speaks envoy.service.auth.v3.

    Args:
        target: `host:port` of a service, or gRPC's own words.
        timeout: seconds.
    """

    target: str
    timeout: float


@dataclass(frozen=True, slots=True)
class HttpAuthorizer:
    """Answers HTTP requests.

    Args:
        target: `host:port` of a service.
        timeout: seconds.
        path_prefix: stands in front of the path that is asked about.
        added: set in the question.
        to_application: headers of an answer that lets in; they replace the request's own.
        appended: the same, beside the request's own.
        to_client: headers of an answer that refuses, besides `location` and `www-authenticate`; empty: all.
        to_client_on_success: headers of an answer that lets in; empty: none.
    """

    target: str
    timeout: float
    path_prefix: str = ""
    added: Headers = ()
    to_application: Names = ()
    appended: Names = ()
    to_client: Names = ()
    to_client_on_success: Names = ()


@dataclass(frozen=True, slots=True)
class BodyInCheck:
    """What an authorizer sees of a body.

    Args:
        most: bytes.
        partial: the beginning of a longer one; else a longer one is refused.
        as_bytes: not as text (gRPC).
    """

    most: int
    partial: bool = False
    as_bytes: bool = False


@dataclass(frozen=True, slots=True)
class ExtAuthz(Filter):
    """Somebody else decides.

    Args:
        when: what an earlier filter has marked; None: every request.
        fail_open: without an answer a request may enter.
        marked: and then the application is told so (`x-envoy-auth-failure-mode-allowed: true`).
        error_status: if it may not.
        allowed: headers that are shown; None: all to gRPC, few to HTTP.
        body: what is shown of the body; None: nothing.
        namespaces: of the dynamic metadata that is shown.
    """

    service: GrpcAuthorizer | HttpAuthorizer
    when: Metadata | None = None
    fail_open: bool = False
    marked: bool = False
    error_status: int = 403
    allowed: Names | None = None
    body: BodyInCheck | None = None
    namespaces: tuple[str, ...] = ()
