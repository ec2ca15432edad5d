"""What the control plane knows: objects that people wrote, instances that registered, and the world made of both.

A `World` is immutable. Sources and the registry make a new one, translation reads it, nothing is ever changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from meshlib.config.model import UNKNOWN_LOCALITY, Locality
from meshlib_control.kinds.mesh_config import MeshConfig


class ObjectKey(NamedTuple):
    """What makes an object unique. `group` is the API group without version: `networking.istio.io`."""

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class MeshObject:
    """One object as it was applied and accepted.

    Args:
        api_version: as written, `networking.istio.io/v1`.
        spec: the typed spec, a struct of `meshlib_control.kinds`; None for a kind that is kept but not understood.
        raw: the whole document as plain data, for `get -o yaml`.
        lines: 1-based line of each field path, `{"spec.http[0]": 12}`; empty if it did not come as text.
        file: the file it came from as the operator named it, or `api`.
        revision: grows with each change of any object; also this object's resourceVersion.
        created: seconds since the epoch; the oldest of several rivals wins.
        source: `api`, or `files` for the watched folder: what wrote it may also delete it.
    """

    key: ObjectKey
    api_version: str
    spec: Any
    raw: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    file: str = "api"
    revision: int = 0
    created: float = 0.0
    source: str = "api"


class Severity(Enum):
    """How bad a finding is; the order is that of istioctl analyze."""

    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `analyze`, also kept as a condition in an object's status.

    Args:
        code: Istio's where one fits (`IST0101`), ours otherwise (`MSH0001` not effective yet).
        field: path inside the object.
        advice: what to do next; may be empty.
    """

    code: str
    severity: Severity
    object: ObjectKey
    message: str
    field: str = ""
    file: str = ""
    line: int = 0
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Registration:
    """One port of one service that an instance serves, from the node metadata of its xDS stream."""

    service: str  # short name, `reviews`
    port: int  # the service's port, 9080
    target_port: int  # where this instance listens
    protocol: str = "http"
    local_port: int = 0  # where the program behind an Envoy listens on loopback; 0: at `target_port`


@dataclass(frozen=True, slots=True)
class Proxying:
    """How an Envoy meets its traffic; meaningless for other clients.

    Args:
        transparent: the host redirects connections to it (Istio: INTERCEPTION_MODE REDIRECT); otherwise it listens where
            programs are told to connect (NONE).
        explicit_ports: (service port, port of loopback) pairs for programs to connect to, 0 for any free one; None: each
            service port under its own number.
        http_proxy_port: a port of loopback that serves all service ports; None: there is none.
        identity_file: path, on its machine, of the SDS file that describes its certificate; empty: it has an agent to ask
            (Istio's static cluster `sds-grpc`).
    """

    transparent: bool = True
    explicit_ports: tuple[tuple[int, int], ...] | None = None
    http_proxy_port: int | None = None
    identity_file: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A client of the xDS server, as its node and its credential describe it.

    Args:
        id: Istio's form, `sidecar~127.0.0.1~reviews-v1-x7.default~default.svc.cluster.local`, unique per process.
        kind: `library`, `grpc` or `envoy`: which shape of resources it gets.
        instance: the pod's or process's name.
        spiffe_id, namespace, service_account: from the credential, never from the node's own words.
        registrations: what it serves; empty for a pure client.
        proxying: how an Envoy meets its traffic.
    """

    id: str
    kind: str
    instance: str
    namespace: str
    service_account: str
    spiffe_id: str
    address: str = "127.0.0.1"
    labels: Mapping[str, str] = field(default_factory=dict)
    workload: str = ""
    cluster_id: str = "Kubernetes"
    locality: Locality = UNKNOWN_LOCALITY
    registrations: tuple[Registration, ...] = ()
    version: str = ""
    proxying: Proxying = Proxying()


@dataclass(frozen=True, slots=True)
class Instance:
    """An endpoint of a service: a registered node's port, or one that a ServiceEntry lists.

    Args:
        in_mesh: it can speak mutual TLS.
        permissive: it can serve mutual TLS and plain text on one port. If not (gRPC's xDS-enabled servers), PERMISSIVE means
            plain text there.
    """

    address: str
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    locality: Locality = UNKNOWN_LOCALITY
    weight: int = 1
    name: str = ""
    workload: str = ""
    namespace: str = ""
    service_account: str = ""
    in_mesh: bool = True
    permissive: bool = True


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a service; `protocol` in lower case: http, http2, grpc, https, tcp, tls."""

    number: int
    protocol: str = "http"
    name: str = ""


class Resolution(Enum):
    """Where a service's endpoints come from (ServiceEntry.resolution; registered services are STATIC)."""

    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"


@dataclass(frozen=True, slots=True)
class Service:
    """A host that can be called, and who answers per port.

    Args:
        hostname: full name, lower case: `reviews.default.svc.cluster.local`.
        instances: per service port number.
        external: declared MESH_EXTERNAL: no mutual TLS is expected.
        origin: the ServiceEntry; None for a registered service.
    """

    hostname: str
    namespace: str
    ports: tuple[ServicePort, ...]
    instances: Mapping[int, tuple[Instance, ...]]
    resolution: Resolution = Resolution.STATIC
    external: bool = False
    subject_alt_names: frozenset[str] = frozenset()
    origin: ObjectKey | None = None


class KeySource(NamedTuple):
    """Where the keys of an issuer of tokens are.

    Args:
        uri: of its key set; empty: the issuer tells (OpenID Connect Discovery).
        issuer: as in its tokens; empty: any.
    """

    uri: str
    issuer: str

    def __str__(self) -> str:
        return self.uri or f"the issuer {self.issuer}"


@dataclass(frozen=True, slots=True)
class World:
    """Everything that translation may know, at one moment.

    Args:
        objects: accepted objects.
        services: by hostname.
        revision: grows with every new world.
        roots: PEM of the certificates that prove everybody in the mesh.
        key_sets: keys of issuers of tokens, as far as they could be fetched: JSON Web Key Sets.
        key_problems: why they could not be fetched the last time.
        revoked: PEM of lists of certificates that count no more; empty: nothing is checked.
        mesh: what holds for the mesh as a whole (`mesh_config`).
    """

    objects: Mapping[ObjectKey, MeshObject] = field(default_factory=lambda: MappingProxyType({}))
    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}))
    trust_domain: str = "cluster.local"
    root_namespace: str = "istio-system"
    domain_suffix: str = "cluster.local"
    revision: int = 0
    roots: str = ""
    key_sets: Mapping[KeySource, str] = field(default_factory=lambda: MappingProxyType({}))
    key_problems: Mapping[KeySource, str] = field(default_factory=lambda: MappingProxyType({}))
    revoked: str = ""
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def of_kind(self, kind: str) -> list[MeshObject]:
        """Objects of a kind, oldest first, then by namespace and name: the order in which Istio lets rivals win."""
        return sorted(
            (item for key, item in self.objects.items() if key.kind == kind),
            key=lambda item: (item.created, item.key.name, item.key.namespace),
        )


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource, ready to send.

    Args:
        body: the serialized message (not the Any).
        version: a hash of the body: equal content has equal versions, also after a restart.
        sources: the objects it was made from, so that a NACK can name them.
    """

    name: str
    type_url: str
    body: bytes
    version: str
    sources: tuple[ObjectKey, ...] = ()
