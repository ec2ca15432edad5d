from __future__ import annotations

from typing import Any

import pytest

from meshlib.config.messages import message
from meshlib.config.model import Locality
from meshlib.errors import ConfigurationError
from meshlib_control.model import Node, Proxying, Registration
from meshlib_control.xds.node import read_node

LIBRARY = "library~10.0.0.1~reviews-v1-x7.default~default.svc.cluster.local"


class Caller:
    spiffe_id = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
    namespace = "default"
    service_account = "bookinfo-reviews"


def node(node_id: str = LIBRARY, metadata: dict[str, Any] | None = None, **facts: Any) -> Node:
    described = message("envoy.config.core.v3.Node")(id=node_id, **facts)
    described.metadata.update(metadata or {})
    return read_node(described, Caller())


def test_a_node_with_everything() -> None:
    """Identity from the credential, the rest from the node."""
    service = {"service": "reviews", "port": 9080, "target_port": 7001, "protocol": "grpc"}
    found = node(
        metadata={
            "GENERATOR": "library",
            "NAMESPACE": "default",
            "NAME": "reviews-v1-x7",
            "WORKLOAD_NAME": "reviews-v1",
            "SERVICE_ACCOUNT": "somebody-else",
            "LABELS": {"app": "reviews"},
            "INSTANCE_IPS": "10.0.0.9,fd00::1",
            "MESHLIB_SERVICES": [service],
        },
        locality={"region": "eu", "zone": "a", "sub_zone": "1"},
        user_agent_name="meshlib",
        user_agent_version="0.1",
    )
    assert (found.kind, found.instance, found.workload, found.address) == (
        "library",
        "reviews-v1-x7",
        "reviews-v1",
        "10.0.0.9",
    )
    assert (found.service_account, found.spiffe_id) == (Caller.service_account, Caller.spiffe_id)
    assert found.registrations == (Registration("reviews", 9080, 7001, "grpc"),)
    assert (found.locality, found.labels, found.version) == (Locality("eu", "a", "1"), {"app": "reviews"}, "meshlib 0.1")


def test_the_id_tells_what_the_metadata_does_not() -> None:
    """Istio's form: kind, address, instance and namespace."""
    found = node()
    assert (found.instance, found.address, found.namespace) == ("reviews-v1-x7", "10.0.0.1", "default")
    assert node("anything").instance == "anything"


@pytest.mark.parametrize(
    ("user_agent", "metadata", "kind"),
    [
        ("envoy", {}, "envoy"),
        ("gRPC C-core linux Python", {}, "grpc"),
        ("meshlib", {}, "library"),
        ("envoy", {"GENERATOR": "grpc"}, "grpc"),
        ("", {"GENERATOR": "strange"}, "library"),
    ],
)
def test_kind(user_agent: str, metadata: dict[str, Any], kind: str) -> None:
    """GENERATOR says it; without it the user agent does."""
    assert node(metadata=metadata, user_agent_name=user_agent).kind == kind


@pytest.mark.parametrize(
    ("node_id", "metadata"), [(LIBRARY, {"NAMESPACE": "bank"}), (LIBRARY.replace(".default~", ".bank~"), {})]
)
def test_a_foreign_namespace_is_refused_wherever_it_is_claimed(node_id: str, metadata: dict[str, Any]) -> None:
    """With the command that makes a fitting token."""
    with pytest.raises(PermissionError, match="meshlib token create --namespace bank"):
        node(node_id, metadata)


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"LABELS": "app=reviews"}, "node.metadata.LABELS"),
        ({"MESHLIB_SERVICES": "reviews"}, "node.metadata.MESHLIB_SERVICES"),
        ({"MESHLIB_SERVICES": ["reviews"]}, "node.metadata.MESHLIB_SERVICES[0].service"),
        ({"MESHLIB_SERVICES": [{"service": "*", "port": 1}]}, "node.metadata.MESHLIB_SERVICES[0].service"),
        ({"MESHLIB_SERVICES": [{"service": "a.b", "port": 1}]}, "node.metadata.MESHLIB_SERVICES[0].service"),
        ({"MESHLIB_SERVICES": [{"service": "a", "port": 1}], "INSTANCE_IPS": "here"}, "node.metadata.INSTANCE_IPS"),
        ({"MESHLIB_SERVICES": [{"service": "a"}]}, "node.metadata.MESHLIB_SERVICES[0].port"),
        ({"MESHLIB_SERVICES": [{"service": "a", "port": "x"}]}, "node.metadata.MESHLIB_SERVICES[0].port"),
        ({"MESHLIB_SERVICES": [{"service": "a", "port": float("inf")}]}, "node.metadata.MESHLIB_SERVICES[0].port"),
        (
            {"MESHLIB_SERVICES": [{"service": "a", "port": 1, "target_port": -1}]},
            "node.metadata.MESHLIB_SERVICES[0].target_port",
        ),
    ],
)
def test_what_cannot_be_read_is_named(metadata: dict[str, Any], field: str) -> None:
    """The client learns which field is wrong."""
    with pytest.raises(ConfigurationError) as raised:
        node(metadata=metadata)
    assert raised.value.field == field


def test_a_target_port_may_be_left_out() -> None:
    """Then it is the service's port."""
    found = node(metadata={"MESHLIB_SERVICES": [{"service": "reviews", "port": 9080}]})
    assert found.registrations == (Registration("reviews", 9080, 9080, "http"),)


def test_an_envoy_says_how_it_meets_its_traffic() -> None:
    """Istio's words where it has some; redirected unless told otherwise."""
    assert node().proxying == Proxying(transparent=True)
    found = node(
        metadata={
            "INTERCEPTION_MODE": "NONE",
            "HTTP_PROXY_PORT": "15007",
            "MESHLIB_EXPLICIT_PORTS": {"9080": 19080, "80": 0},
            "MESHLIB_IDENTITY_FILE": "/certs/default.json",
            "MESHLIB_SERVICES": [{"service": "reviews", "port": 9080, "target_port": 7001, "local_port": 8080}],
        }
    )
    assert found.proxying == Proxying(False, ((80, 0), (9080, 19080)), 15007, "/certs/default.json")
    assert found.registrations == (Registration("reviews", 9080, 7001, local_port=8080),)
    none = node(metadata={"MESHLIB_EXPLICIT_PORTS": {}, "HTTP_PROXY_PORT": "0"}).proxying
    assert (none.explicit_ports, none.http_proxy_port) == ((), 0)


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"INTERCEPTION_MODE": "TPROXY"}, "INTERCEPTION_MODE"),
        ({"HTTP_PROXY_PORT": "70000"}, "HTTP_PROXY_PORT"),
        ({"MESHLIB_EXPLICIT_PORTS": ["9080"]}, "MESHLIB_EXPLICIT_PORTS"),
        ({"MESHLIB_EXPLICIT_PORTS": {"x": 1}}, "MESHLIB_EXPLICIT_PORTS.x"),
        ({"MESHLIB_EXPLICIT_PORTS": {"80": -1}}, "MESHLIB_EXPLICIT_PORTS.80"),
        ({"MESHLIB_EXPLICIT_PORTS": {"80": [1]}}, "MESHLIB_EXPLICIT_PORTS.80"),
        ({"MESHLIB_SERVICES": [{"service": "a", "port": 1, "local_port": "x"}]}, "MESHLIB_SERVICES[0].local_port"),
    ],
)
def test_what_an_envoy_cannot_mean_is_refused(metadata: dict[str, Any], field: str) -> None:
    """With the field's name."""
    with pytest.raises(ConfigurationError) as caught:
        node(metadata=metadata)
    assert caught.value.field == f"node.metadata.{field}"
