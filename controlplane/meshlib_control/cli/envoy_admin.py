"""An Envoy's own word: its `config_dump`, compared with what the control plane sent it."""

from __future__ import annotations

import base64
import json
import operator
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

from .addresses import http_url
from .failure import UNREACHABLE, Failure
from .in_use import Json, compared, unsent

TIMEOUT: Final = 10.0  # seconds
_EXAMPLE: Final = "http://127.0.0.1:15000"
_MESSAGES: Final = {
    "listener": "envoy.config.listener.v3.Listener",
    "route": "envoy.config.route.v3.RouteConfiguration",
    "cluster": "envoy.config.cluster.v3.Cluster",
}


def with_config_dump(url: str, kind: str, resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The resources, each with `inUse` (see `in_use`), and what Envoy has without being sent it.

    Args:
        url: of Envoy's administration, `http://127.0.0.1:15000`.
        kind: listener, route, cluster, endpoint, secret.

    Raises:
        Failure: it cannot be reached, or it is no Envoy.
    """
    used = {name: _canonical(kind, body) for name, body in _used(kind, _config_dump(url))}
    found = [compared(one, used.pop(one["name"], None), _SAME.get(kind, operator.eq)) for one in resources]
    if kind == "endpoint":  # clusters without EDS bring their own
        return found
    if kind == "secret":  # its certificate comes from its own machine, never from the control plane
        return found + [{**unsent(kind, name, "own"), "held": {"tlsCertificate": {}}} for name in sorted(used)]
    return found + [unsent(kind, name) for name in sorted(used)]


def _config_dump(url: str) -> list[Json]:
    parts = http_url(url, "--admin", _EXAMPLE)
    connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT)
    try:
        connection.request("GET", "/config_dump?include_eds")
        configs: list[Json] = json.loads(connection.getresponse().read())["configs"]
    except (OSError, HTTPException) as error:
        raise Failure(f"cannot reach an Envoy at {url}: {error}", f"--admin {_EXAMPLE}", UNREACHABLE) from error
    except (ValueError, KeyError) as error:
        raise Failure(f"{url} answers, but not as Envoy's administration", f"--admin {_EXAMPLE}") from error
    finally:
        connection.close()
    return configs


def _used(kind: str, configs: list[Json]) -> Iterator[tuple[str, Json]]:
    """What Envoy works with, by name, of what it was given at run time."""
    for dump in configs:
        for listener in dump.get("dynamic_listeners", ()) if kind == "listener" else ():
            if "active_state" in listener:
                yield listener["name"], listener["active_state"]["listener"]
        for route in dump.get("dynamic_route_configs", ()) if kind == "route" else ():
            yield route["route_config"]["name"], route["route_config"]
        for cluster in dump.get("dynamic_active_clusters", ()) if kind == "cluster" else ():
            yield cluster["cluster"]["name"], cluster["cluster"]
        for endpoint in dump.get("dynamic_endpoint_configs", ()) if kind == "endpoint" else ():
            yield endpoint["endpoint_config"]["cluster_name"], endpoint["endpoint_config"]
        for secret in dump.get("dynamic_active_secrets", ()) if kind == "secret" else ():
            yield secret["name"], secret["secret"]


def _canonical(kind: str, body: Json) -> Json:
    """Envoy writes protobuf's own names, we JSON's."""
    if kind not in _MESSAGES:
        return body
    from google.protobuf import json_format

    from meshlib.config.messages import message

    made = message(_MESSAGES[kind])()
    pool = made.DESCRIPTOR.file.pool
    json_format.ParseDict({name: value for name, value in body.items() if name != "@type"}, made, descriptor_pool=pool)
    return dict(json_format.MessageToDict(made, descriptor_pool=pool))


def _same_endpoints(sent: Json, used: Json) -> bool:
    """Envoy writes its own account of endpoints, not what it was sent."""
    return set(_addresses(sent, "lbEndpoints", "socketAddress", "portValue")) == set(
        _addresses(used, "lb_endpoints", "socket_address", "port_value")
    )


def _addresses(body: Json, endpoints: str, socket: str, port: str) -> Iterator[tuple[str, int]]:
    for group in body.get("endpoints", ()):
        for one in group.get(endpoints, ()):
            where = one["endpoint"]["address"][socket]
            yield where["address"], where[port]


def _same_roots(sent: Json, used: Json) -> bool:
    return _trusted(sent, "validationContext", "trustedCa") == _trusted(used, "validation_context", "trusted_ca")


def _trusted(body: Json, context: str, ca: str) -> str:
    found = body.get(context, {}).get(ca, {})
    text = found.get("inlineString") or found.get("inline_string")
    # Envoy may show it as bytes.
    return str(text or base64.b64decode(found.get("inlineBytes") or found.get("inline_bytes") or "").decode())


_SAME: Final = {"endpoint": _same_endpoints, "secret": _same_roots}
