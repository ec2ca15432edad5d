"""ServiceEntry, WorkloadEntry and WorkloadGroup (networking.istio.io)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from meshlib_control.kinds.base import Count, NonEmpty, Port, Spec, UInt32
from meshlib_control.kinds.common import WorkloadSelector


class ServicePort(Spec, frozen=True):
    """A port of the service. Without `target_port` the endpoints listen on `number`."""

    number: Port
    name: Annotated[str, Meta(max_length=256)]
    protocol: Annotated[str, Meta(max_length=256)] = ""
    target_port: Port | None = None


class WorkloadEntry(Spec, frozen=True):
    """An endpoint outside of the registry; `ports` maps a service port's name to where it listens here."""

    address: Annotated[str, Meta(max_length=256)] = ""
    ports: Annotated[Mapping[str, Port], Meta(max_length=128)] = {}
    labels: Annotated[Mapping[str, str], Meta(max_length=256)] = {}
    network: Annotated[str, Meta(max_length=2048)] = ""
    locality: Annotated[str, Meta(max_length=2048)] = ""
    weight: UInt32 = 0
    service_account: Annotated[str, Meta(max_length=253)] = ""


class ServiceEntry(Spec, frozen=True):
    """A service that is not registered by its own processes."""

    hosts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=256)]
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=256)] = ()
    ports: Annotated[tuple[ServicePort, ...], Meta(max_length=256, extra={"unique": "name"})] = ()
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    resolution: Literal["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] = "NONE"
    endpoints: Annotated[tuple[WorkloadEntry, ...], Meta(max_length=4096)] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()


class ObjectMeta(Spec, frozen=True):
    """Labels and annotations for entries made from a group."""

    labels: Annotated[Mapping[str, str], Meta(max_length=256)] = {}
    annotations: Annotated[Mapping[str, str], Meta(max_length=256)] = {}


class HttpHeader(Spec, frozen=True):
    """A header of a probe."""

    name: Annotated[str, Meta(pattern=r"^[-_A-Za-z0-9]+$")] = ""
    value: str = ""


class HttpProbe(Spec, frozen=True):
    """A GET that must answer."""

    port: Port
    path: str = ""
    host: str = ""
    scheme: str = ""
    http_headers: tuple[HttpHeader, ...] = ()


class TcpProbe(Spec, frozen=True):
    """A connection that must be accepted."""

    port: Port
    host: str = ""


class ExecProbe(Spec, frozen=True):
    """A command that must succeed."""

    command: tuple[NonEmpty, ...]


class GrpcProbe(Spec, frozen=True):
    """gRPC's health service."""

    port: Port | None = None
    service: str = ""


class ReadinessProbe(Spec, frozen=True):
    """When a workload counts as ready; 0 is the default of each number."""

    one_of: ClassVar = (("httpGet", "tcpSocket", "exec", "grpc"),)

    initial_delay_seconds: Count = 0
    timeout_seconds: Count = 0
    period_seconds: Count = 0
    success_threshold: Count = 0
    failure_threshold: Count = 0
    http_get: HttpProbe | None = None
    tcp_socket: TcpProbe | None = None
    command: ExecProbe | None = msgspec.field(default=None, name="exec")
    grpc: GrpcProbe | None = None


class WorkloadGroup(Spec, frozen=True):
    """A template for WorkloadEntries."""

    template: WorkloadEntry
    metadata: ObjectMeta | None = None
    probe: ReadinessProbe | None = None
