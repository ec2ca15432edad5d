"""What an operator may set, from the environment (`MESHLIB_*`) or in code. Reading it touches no file and no network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshlib.config.model import Locality
from meshlib.errors import SettingsError

PROTOCOLS = ("http", "http2", "grpc", "https", "tls", "tcp")

ACCESS_LOGS = ("off", "text", "json")

ENDPOINT = "SPIFFE_ENDPOINT_SOCKET"
"""SPIFFE's own variable. Not heeded unasked: it may be there for another program, and decides who we are."""
_BY_SPIFFE = ("MESHLIB_IDENTITY_SOURCE", "workload-api")


@dataclass(frozen=True)
class Settings:
    """How a process takes part in the mesh. Every field has an environment variable: `service` is MESHLIB_SERVICE.

    Args:
        service: name under which we are reached; empty: a client only.
        namespace: Kubernetes' sense; part of our identity.
        port: the service's port, what others ask for; 0: the port that we listen on.
        target_port: the port of ours to register; 0: whichever a server adapter reports.
        address: IP address to register; empty: the one that reaches the control plane.
        protocol: `http`.
        labels: select us in subsets and policies: `version=v1`; `app` is the service if it is not given.
        instance: name of this instance, as a pod's name; default: HOSTNAME, else the service and the process id.
        workload: as a deployment's name; default: service and version, `reviews-v1`.
        locality: `region/zone/subzone`.
        control_plane: `host:port` of xDS and the CA.
        control_plane_mtls: `host:port` of xDS for clients that show a certificate instead of a token, as grpcio's own xDS
            client does; default: the port after that of `control_plane`.
        token, token_file: the credential; the file is read again for each use, so that it may be renewed in place.
        root_cert: PEM file that proves the control plane; default: the one a control plane of this user wrote, if any.
        identity_source: a SPIFFE Workload API to have key, certificate and roots from, `unix:///run/spire/agent.sock`; empty:
            the control plane's CA. In the environment also `workload-api`, for the one that SPIFFE_ENDPOINT_SOCKET names.
        home: folder of the user's mesh.
        cache_dir: where the last good configuration is kept; default: `cache` in home.
        prefetch: authorities to ask for at start.
        forward_headers: headers that travel from incoming to outgoing requests.
        trace_sampling: percent, 0 to 100.
        access_log: `off`, `text` or `json`.
        stats_address: `host:port` for Prometheus; empty: off.
        strict: fail where the mesh cannot be joined, instead of going on without.
        certificate_lifetime: seconds to ask the CA for.
        domain: the cluster's DNS suffix, also the trust domain.
        enabled: False: the mesh stays out of the way.
    """

    service: str = ""
    namespace: str = "default"
    port: int = 0
    target_port: int = 0
    address: str = ""
    protocol: str = "http"
    labels: Mapping[str, str] = field(default_factory=dict)
    instance: str = ""
    workload: str = ""
    locality: Locality = field(default_factory=Locality)
    control_plane: str = "127.0.0.1:15012"
    control_plane_mtls: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    root_cert: str = ""
    identity_source: str = ""
    home: str = "~/.meshlib"
    cache_dir: str = ""
    prefetch: tuple[str, ...] = ()
    forward_headers: tuple[str, ...] = ("end-user",)
    trace_sampling: float = 1.0
    access_log: str = "off"
    stats_address: str = ""
    strict: bool = False
    certificate_lifetime: int = 86400
    domain: str = "cluster.local"
    enabled: bool = True

    def __post_init__(self) -> None:
        # The defaults that depend on other fields; `object.__setattr__` because the value is frozen from here on.
        fill = object.__setattr__
        fill(self, "home", str(Path(self.home).expanduser()))
        fill(self, "cache_dir", self.cache_dir or str(Path(self.home) / "cache"))
        if self.service:  # what Istio's examples and policies select by
            fill(self, "labels", {"app": self.service, **self.labels})
        fill(self, "instance", self.instance or f"{self.service or 'client'}-{os.getpid()}")
        fill(self, "workload", self.workload or self._default_workload())
        fill(self, "control_plane_mtls", self.control_plane_mtls or _next_port(self.control_plane))

    def _default_workload(self) -> str:
        if not self.service:
            return self.instance
        version = self.labels.get("version", "")
        return f"{self.service}-{version}" if version else self.service

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Settings from `MESHLIB_*`. Raises SettingsError that names the variable and shows an example."""
        given: dict[str, Any] = {}
        for name, (read, example) in _VARIABLES.items():
            variable = f"MESHLIB_{name.upper()}"
            text = environ.get(variable, "").strip()
            if (variable, text) == _BY_SPIFFE:
                variable, text = ENDPOINT, environ.get(ENDPOINT, "").strip() or "(not set)"
            if text:
                given[name] = _read(variable, text, read, example)
        given.setdefault("instance", environ.get("HOSTNAME", ""))
        return cls(**given)

    def read_token(self) -> str:
        """The credential for one use; empty if there is none. Raises SettingsError if the file cannot be read."""
        if self.token or not self.token_file:
            return self.token
        try:
            return Path(self.token_file).expanduser().read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise SettingsError(f"MESHLIB_TOKEN_FILE: the token cannot be read: {error}") from error

    def read_root_cert(self) -> bytes | None:
        """PEM of what proves the control plane; None leaves the system's roots. Raises SettingsError if it cannot be read."""
        own = Path(self.home) / "controlplane" / "root-cert.pem"
        path = Path(self.root_cert).expanduser() if self.root_cert else own
        if not self.root_cert and not own.exists():
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            raise SettingsError(f"MESHLIB_ROOT_CERT: the control plane's root certificate cannot be read: {error}") from error


def _read(variable: str, text: str, read: Callable[[str], Any], example: str) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise SettingsError(f"{variable}={text!r}: {error}; write for example {variable}={example}") from error


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)


def _labels(text: str) -> Mapping[str, str]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if any(not name or not equals for name, equals, _ in pairs):
        raise ValueError("labels are name=value pairs with commas between")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _locality(text: str) -> Locality:
    parts = text.split("/")
    if len(parts) > 3:
        raise ValueError("a locality has at most three parts")
    return Locality(*parts)


def _address_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    _port(port)
    if not host:
        raise ValueError("the host is missing")
    return text


def _endpoint(text: str) -> str:
    # SPIFFE_Workload_Endpoint.md 4: an absolute path and no authority, or an IP address and a port.
    scheme, _, rest = text.partition(":")
    place = rest.removeprefix("//")
    if scheme == "unix" and place.startswith("/"):
        return f"unix:{place}"
    if scheme == "tcp" and rest.startswith("//") and "/" not in place:
        return f"tcp://{_address_and_port(place)}"
    raise ValueError("a Workload API is a socket with its absolute path")


def _next_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + 1}" if port.isdigit() else address


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip().lower() for part in text.split(",") if part.strip())


def _percent(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 100.0:
        raise ValueError("a percentage is from 0 to 100")
    return value


def _access_log(text: str) -> str:
    if text.lower() not in ACCESS_LOGS:
        raise ValueError(f"choose one of {', '.join(ACCESS_LOGS)}")
    return text.lower()


def _protocol(text: str) -> str:
    if text.lower() not in PROTOCOLS:
        raise ValueError(f"choose one of {', '.join(PROTOCOLS)}")
    return text.lower()


def _flag(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in known:
        raise ValueError("choose 1 or 0")
    return known[text.lower()]


def _seconds(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ValueError("a number of whole seconds above zero")
    return int(text)


def _name(text: str) -> str:
    if not all(part and part.replace("-", "").isalnum() for part in text.split(".")):
        raise ValueError("a name has letters, digits and `-`, as in Kubernetes")
    return text


_VARIABLES: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "service": (_name, "reviews"),
    "namespace": (_name, "default"),
    "port": (_port, "9080"),
    "target_port": (_port, "9080"),
    "address": (str, "10.0.0.7"),
    "protocol": (_protocol, "http"),
    "labels": (_labels, "app=reviews,version=v1"),
    "instance": (str, "reviews-v1-0"),
    "workload": (str, "reviews-v1"),
    "locality": (_locality, "region/zone/subzone"),
    "control_plane": (_address_and_port, "127.0.0.1:15012"),
    "control_plane_mtls": (_address_and_port, "127.0.0.1:15013"),
    "token": (str, "TOKEN"),
    "token_file": (str, "/var/run/secrets/meshlib/token"),
    "root_cert": (str, "/etc/meshlib/root-cert.pem"),
    "identity_source": (_endpoint, "unix:///run/spire/agent.sock"),
    "home": (str, "~/.meshlib"),
    "cache_dir": (str, "/var/cache/meshlib"),
    "prefetch": (_names, "reviews:9080,ratings:9080"),
    "forward_headers": (_names, "end-user,x-tenant"),
    "trace_sampling": (_percent, "1.0"),
    "access_log": (_access_log, "text"),
    "stats_address": (_address_and_port, "127.0.0.1:15090"),
    "strict": (_flag, "1"),
    "certificate_lifetime": (_seconds, "86400"),
    "domain": (_name, "cluster.local"),
    "enabled": (_flag, "0"),
}
