"""What the control thread is told, by callers and by the stream."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum

from meshlib.config.snapshot import Absent, Destination
from meshlib.errors import ControlPlaneError

Found = Destination | Absent


@dataclass(frozen=True, slots=True)
class Announcement:
    """Who we are on the stream.

    Args:
        address: the IP address under which others reach us.
        target_port: where we listen; 0: we serve nothing, or not yet.
        listed: others may be sent to this port. Its policy is asked for in any case.
        protocol: what we speak there; empty: what the settings say.
    """

    address: str
    target_port: int = 0
    listed: bool = True
    protocol: str = ""

    @property
    def inbound_name(self) -> str:
        """The listener that says what our port accepts, named as Istio names it for proxyless gRPC."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"xds.istio.io/grpc/lds/inbound/{address}:{self.target_port}"


class State(Enum):
    """How it stands with the control plane."""

    CONNECTING = "connecting"
    LIVE = "live"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Somebody needs a destination and waits for it."""

    name: str
    waiter: Future[Found]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Somebody waited in vain."""

    name: str


@dataclass(frozen=True, slots=True)
class Served:
    """A server of ours listens; `acknowledged` when the control plane has listed it."""

    announcement: Announcement
    acknowledged: threading.Event


class Certified:
    """Our first certificate is there: a server of ours can do mutual TLS."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A server of ours is about to end; `done` when others had the time to hear of it."""

    done: Future[None]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A response on stream `number`."""

    number: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """Stream `number` is over."""

    number: int
    error: ControlPlaneError


class Stopped:
    """The owner closes."""


Event = Wanted | Unanswered | Served | Certified | Withdrawn | Arrived | Ended | Stopped
