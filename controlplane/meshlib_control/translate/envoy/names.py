"""The fixed names of Istio's sidecar configuration."""

from __future__ import annotations

from typing import Final

PASSTHROUGH: Final = "PassthroughCluster"
BLACK_HOLE: Final = "BlackHoleCluster"
INBOUND_PASSTHROUGH: Final = "InboundPassthroughCluster"

VIRTUAL_OUTBOUND: Final = "virtualOutbound"
VIRTUAL_INBOUND: Final = "virtualInbound"
HTTP_PROXY: Final = "http_proxy"

OUTBOUND_PORT: Final = 15001
INBOUND_PORT: Final = 15006
LOOPBACK: Final = "127.0.0.1"
ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104  what Istio's names and listeners say; traffic is redirected to it


def inbound_cluster(target_port: int) -> str:
    """The cluster of a program behind its Envoy: `inbound|8080||`."""
    return f"inbound|{target_port}||"


def inbound_cluster_port(name: str) -> int | None:
    """The port of `inbound|8080||`; None for another name."""
    parts = name.split("|")
    fits = len(parts) == 4 and parts[0] == "inbound" and parts[2:] == ["", ""] and parts[1].isascii() and parts[1].isdigit()
    return int(parts[1]) if fits else None


def listener_name(address: str, port: int) -> str:
    """Istio: the address and port that programs mean, `0.0.0.0_9080`."""
    return f"{address}_{port}"


def outbound_port(name: str, address: str) -> int | None:
    """The service port of an outbound listener's name; None for another name."""
    place, _, port = name.rpartition("_")
    return int(port) if place == address and port.isascii() and port.isdigit() else None


def inbound_name(address: str, port: int) -> str:
    """The listener of one port of a program whose traffic is not redirected. Istio has no prefix here; without it an outbound
    listener of the same port would have the same name."""
    return f"inbound_{address}_{port}"


def is_own(name: str) -> bool:
    """Whether a listener or cluster depends on what the asking node itself serves."""
    return name == VIRTUAL_INBOUND or name.startswith(("inbound_", "inbound|"))
