"""A node as it describes itself in the first message of its stream, checked against its credential."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from meshlib.config.model import Locality
from meshlib.errors import ConfigurationError
from meshlib_control.model import Node, Proxying, Registration

_SERVICE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.IGNORECASE)


class Caller(Protocol):
    """Who is calling, by credential."""

    @property
    def spiffe_id(self) -> str:
        """`spiffe://cluster.local/ns/default/sa/bookinfo-reviews`."""

    @property
    def namespace(self) -> str:
        """The namespace of its service account."""

    @property
    def service_account(self) -> str:
        """The name of its service account."""


def read_node(message: Any, caller: Caller) -> Node:
    """The node of an `envoy.config.core.v3.Node`.

    Raises:
        ConfigurationError: what it says cannot be read; names the metadata field.
        PermissionError: it claims a namespace that is not its credential's.
    """
    metadata = {name: _plain(value) for name, value in message.metadata.fields.items()}
    _, address, instance, claimed = _parts(message.id)
    namespace = _text(metadata, "NAMESPACE") or claimed or caller.namespace
    if namespace != caller.namespace:
        raise PermissionError(
            f"the node says it is in namespace {namespace!r}, its credential is for {caller.namespace!r}. "
            f"Use a token of: meshlib token create --namespace {namespace} --service-account NAME"
        )
    where = message.locality
    address = _text(metadata, "INSTANCE_IPS").split(",")[0] or address
    return Node(
        id=message.id,
        kind=_kind(metadata, message.user_agent_name),
        instance=_text(metadata, "NAME") or instance,
        namespace=caller.namespace,
        service_account=caller.service_account,
        spiffe_id=caller.spiffe_id,
        address=address,
        labels=_labels(metadata),
        workload=_text(metadata, "WORKLOAD_NAME"),
        cluster_id=_text(metadata, "CLUSTER_ID") or "Kubernetes",
        locality=Locality(where.region, where.zone, where.sub_zone),
        registrations=tuple(_registrations(metadata.get("MESHLIB_SERVICES", []), address)),
        version=_version(message),
        proxying=_proxying(metadata),
    )


def _parts(node_id: str) -> tuple[str, str, str, str]:
    """Kind, address, instance and namespace of `sidecar~127.0.0.1~reviews-v1-x7.default~default.svc.cluster.local`."""
    parts = node_id.split("~")
    if len(parts) != 4:
        # grpcio and Envoy allow any id; only Istio's form tells more.
        return ("", "", node_id, "")
    instance, _, namespace = parts[2].rpartition(".")
    return (parts[0], parts[1], instance or parts[2], namespace if instance else "")


def _kind(metadata: Mapping[str, Any], user_agent: str) -> str:
    if metadata.get("GENERATOR") in {"library", "grpc", "envoy"}:
        return str(metadata["GENERATOR"])
    if user_agent.lower() == "envoy":
        return "envoy"
    return "grpc" if "grpc" in user_agent.lower() else "library"


def _version(message: Any) -> str:
    build = message.user_agent_build_version.version
    number = f"{build.major_number}.{build.minor_number}.{build.patch}" if build.ByteSize() else ""
    return f"{message.user_agent_name} {message.user_agent_version or number}".strip()


def _labels(metadata: Mapping[str, Any]) -> dict[str, str]:
    labels = metadata.get("LABELS", {})
    if not isinstance(labels, Mapping):
        raise ConfigurationError("not a mapping of labels", field="node.metadata.LABELS")
    return {str(name): str(value) for name, value in labels.items()}


def _registrations(entries: Any, address: str) -> Iterator[Registration]:
    if not isinstance(entries, list):
        raise ConfigurationError("not a list of services", field="node.metadata.MESHLIB_SERVICES")
    if entries and not _is_ip(address):
        raise ConfigurationError(f"{address!r} is not an IP address others could call", field="node.metadata.INSTANCE_IPS")
    for index, entry in enumerate(entries):
        field = f"node.metadata.MESHLIB_SERVICES[{index}]"
        fields = entry if isinstance(entry, Mapping) else {}
        # A name like `*` would claim every host of the namespace.
        if not _SERVICE_NAME.fullmatch(_text(fields, "service")):
            raise ConfigurationError("is not a service's name, such as `reviews`", field=f"{field}.service")
        port = _port(fields, "port", field)
        target = _port(fields, "target_port", field) if fields.get("target_port") else port
        local = _port(fields, "local_port", field) if fields.get("local_port") else 0
        yield Registration(fields["service"], port, target, str(fields.get("protocol") or "http"), local)


def _proxying(metadata: Mapping[str, Any]) -> Proxying:
    """Istio's words where it has some: INTERCEPTION_MODE, HTTP_PROXY_PORT."""
    mode = _text(metadata, "INTERCEPTION_MODE") or "REDIRECT"
    if mode not in {"REDIRECT", "NONE"}:
        raise ConfigurationError(f"{mode} is not supported: REDIRECT or NONE", field="node.metadata.INTERCEPTION_MODE")
    place = "node.metadata"
    explicit = metadata.get("MESHLIB_EXPLICIT_PORTS")
    return Proxying(
        transparent=mode == "REDIRECT",
        explicit_ports=None if explicit is None else _explicit_ports(explicit, f"{place}.MESHLIB_EXPLICIT_PORTS"),
        http_proxy_port=_any_port(metadata, "HTTP_PROXY_PORT", place) if metadata.get("HTTP_PROXY_PORT") else None,
        identity_file=_text(metadata, "MESHLIB_IDENTITY_FILE"),
    )


def _explicit_ports(entries: Any, place: str) -> tuple[tuple[int, int], ...]:
    """`{"9080": 19080}`: service port, port of loopback; 0 lets Envoy choose."""
    if not isinstance(entries, Mapping):
        raise ConfigurationError("not a mapping of service ports to ports of loopback", field=place)
    pairs = ((_port({name: name}, name, place), _any_port(entries, name, place)) for name in entries)
    return tuple(sorted(pairs))


def _any_port(entry: Mapping[str, Any], name: str, place: str) -> int:
    return 0 if entry.get(name) in (0, "0") else _port(entry, name, place)  # a tuple: what clients send may not hash


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _port(entry: Mapping[str, Any], name: str, field: str) -> int:
    try:
        port = int(entry.get(name, 0))
    except (TypeError, ValueError, OverflowError):
        port = 0
    if not 0 < port < 65536:
        raise ConfigurationError(f"{entry.get(name)!r} is not a port between 1 and 65535", field=f"{field}.{name}")
    return port


def _text(metadata: Mapping[str, Any], name: str) -> str:
    value = metadata.get(name, "")
    return value if isinstance(value, str) else ""


def _plain(value: Any) -> Any:
    """A google.protobuf.Value as plain data."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {name: _plain(entry) for name, entry in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(entry) for entry in value.list_value.values]
    return None if kind in {None, "null_value"} else getattr(value, kind)
