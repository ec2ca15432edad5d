"""Requests and responses of both ADS variants: bytes to values and back."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.config.messages import message
from meshlib.errors import ConfigurationError
from meshlib_control.xds.exchange import DeltaRequest, Response, StateRequest, Variant
from meshlib_control.xds.limits import Limits

_DISCOVERY = "envoy.service.discovery.v3."


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and the node it describes: an `envoy.config.core.v3.Node`, None if it repeats nothing about itself."""

    asks: StateRequest | DeltaRequest
    node: Any | None


def read_request(variant: Variant, data: bytes, limits: Limits) -> Request:
    """A request of a variant.

    Raises:
        ConfigurationError: the bytes are no such message, or it names no type.
        TooMuch: it is larger than a client may.
    """
    name = "DiscoveryRequest" if variant is Variant.STATE_OF_THE_WORLD else "DeltaDiscoveryRequest"
    try:
        body = message(_DISCOVERY + name).FromString(data)
    except DecodeError as error:
        raise ConfigurationError(f"the message is no {_DISCOVERY}{name}: {error}") from error
    if not body.type_url:
        raise ConfigurationError("the request names no type_url")
    if body.HasField("node"):
        limits.check("bytes of a node", body.node.ByteSize(), limits.node)
    limits.check("characters of a type", len(body.type_url), limits.name)
    asks = _READERS[variant](body, limits)
    return Request(asks, body.node if body.HasField("node") else None)


def _state_request(body: Any, limits: Limits) -> StateRequest:
    _check_names(limits, body.resource_names)
    return StateRequest(body.type_url, tuple(body.resource_names), body.response_nonce, _error(body, limits))


def _delta_request(body: Any, limits: Limits) -> DeltaRequest:
    held = body.initial_resource_versions
    _check_names(limits, body.resource_names_subscribe, body.resource_names_unsubscribe, held)
    limits.check("characters of a version", max(map(len, held.values()), default=0), limits.name)
    return DeltaRequest(
        type_url=body.type_url,
        subscribe=tuple(body.resource_names_subscribe),
        unsubscribe=tuple(body.resource_names_unsubscribe),
        initial_versions=dict(body.initial_resource_versions),
        nonce=body.response_nonce,
        error=_error(body, limits),
    )


def _check_names(limits: Limits, *groups: Collection[str]) -> None:
    limits.check("names of a request", max(map(len, groups)), limits.names)
    limits.check("characters of a name", max((len(name) for names in groups for name in names), default=0), limits.name)


_READERS: dict[Variant, Callable[[Any, Limits], StateRequest | DeltaRequest]] = {
    Variant.STATE_OF_THE_WORLD: _state_request,
    Variant.DELTA: _delta_request,
}


def _error(body: Any, limits: Limits) -> str | None:
    if not body.HasField("error_detail"):
        return None
    said = body.error_detail.message[: limits.error] or f"rejected with code {body.error_detail.code} and no reason"
    # It is logged and shown in terminals.
    return "".join(letter if letter.isprintable() else " " for letter in said)


def write_response(variant: Variant, response: Response) -> bytes:
    """The bytes of a response."""
    body = _state_response(response) if variant is Variant.STATE_OF_THE_WORLD else _delta_response(response)
    return bytes(body.SerializeToString())


def _state_response(response: Response) -> Any:
    return message(_DISCOVERY + "DiscoveryResponse")(
        version_info=response.version,
        type_url=response.type_url,
        nonce=response.nonce,
        resources=[{"type_url": resource.type_url, "value": resource.body} for resource in response.resources],
        control_plane={"identifier": "meshlib"},
    )


def _delta_response(response: Response) -> Any:
    return message(_DISCOVERY + "DeltaDiscoveryResponse")(
        system_version_info=response.version,
        type_url=response.type_url,
        nonce=response.nonce,
        resources=[
            {
                "name": resource.name,
                "version": resource.version,
                "resource": {"type_url": resource.type_url, "value": resource.body},
            }
            for resource in response.resources
        ],
        removed_resources=response.removed,
        control_plane={"identifier": "meshlib"},
    )
