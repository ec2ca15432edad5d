"""The word of gRPC's own xDS clients: their client status discovery service (CSDS), in any language.

One gRPC process has an xDS client, and a stream, for each target that it dials and one for its servers. They share a node id,
so a stream's client is the one that holds most of the stream's resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .addresses import host_and_port
from .failure import FAILURE, UNREACHABLE, Failure
from .in_use import Json, Resource, compared, unsent

if TYPE_CHECKING:
    import grpc

SERVICE: Final = "envoy.service.status.v3.ClientStatusDiscoveryService"
TIMEOUT: Final = 10.0  # seconds
_EXAMPLE: Final = "127.0.0.1:15009"
_SERVE: Final = "in the program: meshlib_grpc.native.add_csds_servicer(server), see docs/grpc.md"
_REJECTED: Final = "NACKED"


@dataclass(frozen=True, slots=True)
class Held:
    """A resource as the client has it.

    Args:
        body: what it uses; None: nothing (yet).
        error: why it rejected the newest one; empty: it did not.
    """

    body: Json | None
    error: str


Resources = Mapping[tuple[str, str], Held]
"""By type, as in `meshlib pc`, and name."""


@dataclass(frozen=True, slots=True)
class Client:
    """One xDS client of a process, by node id, with what it holds."""

    node: str
    resources: Resources


def with_client_status(address: str, kind: str, streams: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The streams, each with its resources of a kind, and `inUse` for each of them (see `in_use`).

    Args:
        address: `host:port` where the program serves CSDS in plain text.
        kind: listener, route, cluster, endpoint, secret.
        streams: with resources of all kinds, which tell whose they are.

    Raises:
        Failure: nobody answers there, or somebody else.
    """
    clients = _clients(address)
    nodes = dict.fromkeys(client.node for client in clients)
    if not nodes:
        raise Failure(f"the program at {address} has not used xDS yet", "make a call in it, or start its server", FAILURE)
    if not any(stream["id"] in nodes for stream in streams):
        raise Failure(f"the program at {address} is {', '.join(nodes)}, not {streams[0]['id']}", "meshlib ps", FAILURE)
    return [_with_client(stream, kind, clients) for stream in streams]


def _with_client(stream: Json, kind: str, clients: list[Client]) -> dict[str, Any]:
    names = {(one["type"], one["name"]) for one in stream["resources"]}
    own = [client.resources for client in clients if client.node == stream["id"]]
    likest: Resources = max(own, key=lambda resources: len(names.intersection(resources)), default={})
    held = dict(likest)
    judged = [_judged(one, held.pop((kind, one["name"]), None)) for one in stream["resources"] if one["type"] == kind]
    extra = [unsent(kind, name) for (of, name), one in sorted(held.items()) if of == kind and one.body is not None]
    return {**stream, "resources": judged + extra}


def _judged(resource: Json, held: Held | None) -> Resource:
    found = compared(resource, held.body if held else None)
    return {**found, "error": resource["error"] or (held.error if held else "")}


def _clients(address: str) -> list[Client]:
    from google.protobuf.message import DecodeError

    from meshlib.config.messages import message

    try:
        response = message("envoy.service.status.v3.ClientStatusResponse").FromString(_fetched(address))
    except DecodeError as error:
        raise Failure(f"{address} answers, but not with a client's status", _SERVE) from error
    return [
        Client(config.node.id, dict(_held(one) for one in config.generic_xds_configs if one.type_url in _kinds()))
        for config in response.config
    ]


def _held(entry: Any) -> tuple[tuple[str, str], Held]:
    from google.protobuf import json_format

    from meshlib.config.messages import unpack

    body = None
    if entry.HasField("xds_config"):
        resource = unpack(entry.xds_config)
        body = dict(json_format.MessageToDict(resource, descriptor_pool=resource.DESCRIPTOR.file.pool))
    status = entry.DESCRIPTOR.fields_by_name["client_status"].enum_type.values_by_number[entry.client_status].name
    error = entry.error_state.details if status == _REJECTED else ""
    return (_kinds()[entry.type_url], entry.name), Held(body, error)


def _kinds() -> dict[str, str]:
    from meshlib_control.configured import TYPES

    return {type_url: kind for kind, type_url in TYPES.items()}


def _fetched(address: str) -> bytes:
    """The client's ClientStatusResponse, serialized."""
    import grpc

    # A proxy of the environment is for the world outside.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(host_and_port(address, "--csds", _EXAMPLE), options) as channel:
        try:
            answer: bytes = channel.unary_unary(f"/{SERVICE}/FetchClientStatus")(b"", timeout=TIMEOUT)
        except grpc.RpcError as error:
            raise _refused(address, error) from error
    return answer


def _refused(address: str, error: grpc.RpcError) -> Failure:
    import grpc

    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Failure(f"{address} serves gRPC, but not the client status discovery service", _SERVE)
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return Failure(f"no gRPC client's status at {address}: {error.details()}", f"--csds {_EXAMPLE}; {_SERVE}", UNREACHABLE)
    return Failure(f"{address} does not tell its client's status: {error.details()}", _SERVE)
