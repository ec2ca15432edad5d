"""Every error of meshlib, in one tree.

    MeshError
    ├── SettingsError               the environment or an argument is wrong; says which and what to write instead
    ├── ConfigurationError          an object or resource is wrong; names file, line, field
    ├── ControlPlaneError           the control plane cannot be reached, or refused us
    │   └── CredentialError         it refused the credential: wrong, expired, for another audience
    ├── IdentityError               certificates: ours or a peer's
    │   ├── NoCertificate           we hold none that is valid now
    │   ├── WorkloadApiError        a SPIFFE Workload API cannot be reached, or gives us no identity
    │   └── PeerRejected            the peer's identity is not the expected one
    ├── InvalidRequest              what the caller wants to send cannot be written as HTTP/1.1
    └── UpstreamError               a request left and did not come back; carries what the mesh saw
        ├── NoCluster               NC   the route names a cluster that does not exist
        ├── NoHealthyUpstream       UH   no endpoint to send to
        ├── UpstreamOverflow        UO   a circuit breaker is open: too much is under way already
        ├── ConnectFailure          UF   no connection, or the TLS handshake failed
        ├── ConnectionTerminated    UC   the peer closed or reset before the response was complete
        ├── ProtocolFailure         UPE  the peer's bytes are not HTTP
        └── UpstreamTimeout         UT   the route's timeout, or a try's

Adapters raise the host library's own exceptions `from` an UpstreamError and add `str(error.sighting)` to them as a note.
Response flags are Envoy's (%RESPONSE_FLAGS%).
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import ClassVar


class MeshError(Exception):
    """The root of every error that meshlib raises."""


class SettingsError(MeshError):
    """The environment or an argument is wrong."""


class ConfigurationError(MeshError):
    """An object or a resource is wrong.

    Args:
        problem: what is wrong and what to do, one sentence.
        field: the path inside the object, as in `spec.http[0].route[0].weight`; empty if not known.
        file: where the object came from; empty if not from a file.
        line: 1-based line in `file`; 0 if not known.
    """

    def __init__(self, problem: str, *, field: str = "", file: str = "", line: int = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.field = field
        self.file = file
        self.line = line

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.field, self.problem) if part)


class ControlPlaneError(MeshError):
    """The control plane cannot be reached or refused the request."""


class CredentialError(ControlPlaneError):
    """The control plane refused the credential."""


class IdentityError(MeshError):
    """A certificate, ours or a peer's, cannot be used."""


class NoCertificate(IdentityError):
    """This process holds no certificate that is valid now."""


class WorkloadApiError(IdentityError):
    """The SPIFFE Workload API that this process has its identity from cannot be reached, or gives it none."""


class PeerRejected(IdentityError):
    """The peer proved an identity, but not one that may serve this destination."""


class InvalidRequest(MeshError):
    """What the caller wants to send cannot be written as HTTP/1.1; says what and why. Nothing has left."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the mesh saw of one request: the note on an exception, and the fields of the access log.

    Empty strings and zeros mean: the request did not get that far.
    """

    authority: str
    route: str = ""
    cluster: str = ""
    endpoint: str = ""
    attempt: int = 0
    flag: str = ""
    detail: str = ""
    method: str = "GET"
    path: str = "/"

    def __str__(self) -> str:
        facts = {
            "to": self.authority,
            "route": self.route,
            "cluster": self.cluster,
            "endpoint": self.endpoint,
            "attempt": str(self.attempt) if self.attempt else "",
        }
        seen = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
        why = f"{self.flag}: {self.detail}" if self.flag else self.detail
        # Without the query, which may hold secrets; to be typed into a shell as it is.
        url = shlex.quote(f"http://{self.authority}{self.path.partition('?')[0]}")
        return f"meshlib: {why} ({seen}); see: meshlib explain {self.method} {url}"


class UpstreamError(MeshError):
    """A request left and did not come back. `sighting` tells how far it got; `flag` is Envoy's response flag."""

    flag: ClassVar[str] = "UF"
    status: ClassVar[int] = 503  # what Envoy would have answered in this case

    def __init__(self, sighting: Sighting) -> None:
        super().__init__(str(sighting))
        self.sighting = sighting


class NoCluster(UpstreamError):
    """The route names a cluster that does not exist: a missing subset or service."""

    flag = "NC"


class NoHealthyUpstream(UpstreamError):
    """The cluster has no endpoint to send to."""

    flag = "UH"


class UpstreamOverflow(UpstreamError):
    """A circuit breaker is open: as much is under way to the cluster as may be. Nothing was sent."""

    flag = "UO"


class ConnectFailure(UpstreamError):
    """No connection could be made, or the TLS handshake failed."""

    flag = "UF"


class ConnectionTerminated(UpstreamError):
    """The peer closed or reset the connection before the response was complete."""

    flag = "UC"


class ProtocolFailure(UpstreamError):
    """The peer answered with bytes that are not HTTP/1.1."""

    flag = "UPE"
    status = 502


class UpstreamTimeout(UpstreamError):
    """The route's timeout passed, or the last try's."""

    flag = "UT"
    status = 504
