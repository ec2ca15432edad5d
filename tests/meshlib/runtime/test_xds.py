"""Envelopes: facts <-> bytes of the delta protocol."""

from __future__ import annotations

from typing import Any

import pytest

from meshlib.config.decode import TYPE_URLS
from meshlib.config.messages import message, pack
from meshlib.config.model import Locality
from meshlib.config.subscription import Ask, Kind
from meshlib.runtime import xds
from meshlib.runtime.events import Announcement
from meshlib.runtime.settings import Settings

CLUSTER = "envoy.config.cluster.v3.Cluster"
REQUEST = "envoy.service.discovery.v3.DeltaDiscoveryRequest"
RESPONSE = "envoy.service.discovery.v3.DeltaDiscoveryResponse"


def parsed(ask: Ask, node: Any = None) -> Any:
    return message(REQUEST).FromString(xds.to_request(ask, node))


def response(*resources: dict[str, Any], kind: Kind = Kind.CLUSTER, **fields: Any) -> bytes:
    made = message(RESPONSE)(type_url=TYPE_URLS[kind], nonce="n", resources=resources, **fields)
    return bytes(made.SerializeToString())


def cluster(name: str, **fields: Any) -> Any:
    return pack(message(CLUSTER)(name=name, type="EDS", lb_policy="RANDOM", **fields))


def test_a_subscription() -> None:
    """Names, versions held, and the node in the first request."""
    node = xds.node(Settings(instance="i", locality=Locality("r", "z", "s")), Announcement("10.0.0.1"))
    request = parsed(Ask(Kind.CLUSTER, ("a",), ("b",), {"a": "1"}), node)
    assert request.type_url == "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    assert list(request.resource_names_subscribe) == ["a"]
    assert list(request.resource_names_unsubscribe) == ["b"]
    assert dict(request.initial_resource_versions) == {"a": "1"}
    assert request.node.id == "library~10.0.0.1~i.default~default.svc.cluster.local"
    assert (request.node.locality.region, request.node.locality.zone, request.node.locality.sub_zone) == ("r", "z", "s")
    assert not request.HasField("error_detail")


def test_acknowledging_and_refusing() -> None:
    """A nonce alone is an ACK; with an error it is a NACK."""
    assert parsed(Ask(Kind.CLUSTER, nonce="7")).response_nonce == "7"
    assert not parsed(Ask(Kind.CLUSTER, nonce="7")).HasField("node")
    refused = parsed(Ask(Kind.CLUSTER, nonce="7", problem="a: wrong"))
    assert (refused.response_nonce, refused.error_detail.code, refused.error_detail.message) == ("7", 3, "a: wrong")


@pytest.mark.parametrize(
    ("settings", "port", "registrations"),
    [
        (Settings(service="reviews"), 0, []),
        (Settings(), 43210, []),
        (
            Settings(service="reviews"),
            43210,
            [{"service": "reviews", "port": 43210, "target_port": 43210, "protocol": "http"}],
        ),
    ],
)
def test_only_services_that_listen_register(settings: Settings, port: int, registrations: list[dict[str, Any]]) -> None:
    """A client, or a server that does not listen yet, is no instance."""
    node = xds.node(settings, Announcement("10.0.0.1", port))
    assert [dict(one) for one in node.metadata["MESHLIB_SERVICES"]] == registrations


def test_inbound_names() -> None:
    """As Istio names them; an IPv6 address in brackets."""
    assert Announcement("10.0.0.1", 80).inbound_name == "xds.istio.io/grpc/lds/inbound/10.0.0.1:80"
    assert Announcement("fe80::1", 80).inbound_name == "xds.istio.io/grpc/lds/inbound/[fe80::1]:80"


def test_a_response() -> None:
    """Resources decoded, with their bytes for the disk; removals by name."""
    update = xds.from_response(response({"name": "a", "version": "1", "resource": cluster("a")}, removed_resources=["b"]))
    assert update is not None
    [item] = update.items
    assert (update.kind, update.nonce, update.removed, update.problem) == (Kind.CLUSTER, "n", ("b",), "")
    assert (item.name, item.version, item.value.name) == ("a", "1", "a")
    assert xds.item(Kind.CLUSTER, "a", "1", item.raw) == item


def test_every_problem_of_a_response_is_told() -> None:
    """By resource and field, so that an operator finds all of them at once."""
    listener = pack(message("envoy.config.listener.v3.Listener")(name="d"))
    update = xds.from_response(
        response(
            {"name": "a", "resource": cluster("a", connect_timeout={"seconds": -1})},
            {"name": "b", "resource": cluster("other")},
            {"name": "c"},
            {"name": "d", "resource": listener},
            {"name": "e", "resource": cluster("e")},
        )
    )
    assert update is not None
    told = update.problem.split("; ")
    assert [one.partition(":")[0] for one in told] == ["a", "b", "c", "d"]
    assert "connect_timeout" in told[0]
    assert "'other'" in told[1]
    assert "(nothing)" in told[2]
    assert "Listener" in told[3]


def test_a_fault_of_ours_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody foresaw ends as a NACK with its words, not as a dead thread."""

    def broken(kind: Kind, body: bytes) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(xds, "decode", broken)
    update = xds.from_response(response({"name": "a", "resource": cluster("a")}))
    assert update is not None
    assert update.problem == "a: ZeroDivisionError: oops"


def test_types_nobody_asked_for() -> None:
    """Ignored."""
    assert xds.from_response(message(RESPONSE)(type_url="type.googleapis.com/x.Y").SerializeToString()) is None
