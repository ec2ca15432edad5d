"""Extension providers: names, services, headers. Istio: extauthz.go, extensionprovider.go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final

from meshlib_control.kinds.extension_provider import ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider
from meshlib_control.mistakes import Mistake, child, item
from meshlib_control.validate import formats
from meshlib_control.validate.common import told

# What Envoy has a name for (type.v3.StatusCode), from 400 on: another would be no refusal.
_STATUSES: Final = frozenset(str(int(one)) for one in HTTPStatus if 400 <= one <= 511) - {"418", "425", "451"}


def check(providers: Sequence[ExtensionProvider], field: str) -> Iterator[Mistake]:
    """Everything wrong with the providers of a mesh configuration.

    Args:
        field: the path of the configuration.
    """
    names = [one.name for one in providers]
    for index, one in enumerate(providers):
        path = item(child(field, "extensionProviders"), index)
        if one.name in names[:index]:
            yield Mistake(f"{path}.name", f"{one.name} is here twice")
        if one.envoy_ext_authz_grpc is not None:
            yield from _authorizer(one.envoy_ext_authz_grpc, f"{path}.envoyExtAuthzGrpc")
        if one.envoy_ext_authz_http is not None:
            yield from _http(one.envoy_ext_authz_http, f"{path}.envoyExtAuthzHttp")


def _authorizer(found: ExtAuthzGrpc, path: str) -> Iterator[Mistake]:
    namespace, slash, host = found.service.rpartition("/")
    if slash:
        yield from told(f"{path}.service", formats.label(namespace))
    yield from told(f"{path}.service", "" if formats.is_ip(host) and not slash else formats.fqdn(host))
    if found.status_on_error and found.status_on_error not in _STATUSES:
        yield Mistake(f"{path}.statusOnError", f'"{found.status_on_error}" is no status of a refusal', 'write "403" or "503"')
    body = found.include_request_body_in_check
    if body is not None and not body.max_request_bytes:
        yield Mistake(f"{path}.includeRequestBodyInCheck.maxRequestBytes", "must be 1 or more")


def _http(found: ExtAuthzHttp, path: str) -> Iterator[Mistake]:
    yield from _authorizer(found, path)
    if found.path_prefix and not found.path_prefix.startswith("/"):
        yield Mistake(f"{path}.pathPrefix", f'"{found.path_prefix}" must begin with /')
    for name, value in found.include_additional_headers_in_check.items():
        place = child(f"{path}.includeAdditionalHeadersInCheck", name)
        yield from told(place, formats.header_value(value))
    for field, names in (
        ("includeHeadersInCheck", found.include_headers_in_check),
        ("includeRequestHeadersInCheck", found.include_request_headers_in_check),
        ("headersToUpstreamOnAllow", found.headers_to_upstream_on_allow),
        ("headersToDownstreamOnDeny", found.headers_to_downstream_on_deny),
        ("headersToDownstreamOnAllow", found.headers_to_downstream_on_allow),
    ):
        for index, name in enumerate(names):
            if name.strip("*") == "" or "*" in name[1:-1]:
                yield Mistake(item(f"{path}.{field}", index), f'"{name}" must be a name, PREFIX* or *SUFFIX')
