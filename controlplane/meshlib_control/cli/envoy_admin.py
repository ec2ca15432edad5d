"""An Envoy's own word: its `config_dump`, compared with what the control plane sent it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from .failure import UNREACHABLE, USAGE, Failure

TIMEOUT: Final = 10.0  # seconds
_MESSAGES: Final = {
    "listener": "envoy.config.listener.v3.Listener",
    "route": "envoy.config.route.v3.RouteConfiguration",
    "cluster": "envoy.config.cluster.v3.Cluster",
}

Json = Mapping[str, Any]


def compared(url: str, kind: str, resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The resources, each with `inUse`: `same`, `differs`, `missing`; and those that Envoy has without being sent: `extra`.

    Args:
        url: of Envoy's administration, `http://127.0.0.1:15000`.
        kind: listener, route, cluster, endpoint, secret.

    Raises:
        Failure: it cannot be reached, or it is no Envoy.
    """
    used = dict(_used(kind, _config_dump(url)))
    found = [{**one, "inUse": _judged(kind, one, used.pop(one["name"], None))} for one in resources]
    # Clusters without EDS bring their own endpoints.
    return found if kind == "endpoint" else found + [_extra(kind, name) for name in sorted(used)]


def _config_dump(url: str) -> list[Json]:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise Failure(f"--admin {url!r} is no URL", "--admin http://127.0.0.1:15000", USAGE)
    connection = HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT)
    try:
        connection.request("GET", "/config_dump?include_eds")
        configs: list[Json] = json.loads(connection.getresponse().read())["configs"]
    except (OSError, HTTPException) as error:
        raise Failure(f"cannot reach an Envoy at {url}: {error}", "--admin http://127.0.0.1:15000", UNREACHABLE) from error
    except (ValueError, KeyError) as error:
        raise Failure(f"{url} answers, but not as Envoy's administration", "--admin http://127.0.0.1:15000") from error
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


def _judged(kind: str, resource: Json, used: Json | None) -> str:
    if resource["held"] is None:
        return "-" if used is None else "extra"
    if used is None:
        return "missing"
    return "same" if _same(kind, resource["held"], used) else "differs"


def _same(kind: str, sent: Json, used: Json) -> bool:
    if kind in _MESSAGES:
        return _message(kind, sent) == _message(kind, used)
    if kind == "endpoint":
        # Envoy writes its own account of endpoints, not what it was sent.
        return set(_addresses(sent, "lbEndpoints", "socketAddress", "portValue")) == set(
            _addresses(used, "lb_endpoints", "socket_address", "port_value")
        )
    return str(_trusted(sent, "validationContext", "trustedCa")) == str(_trusted(used, "validation_context", "trusted_ca"))


def _message(kind: str, body: Json) -> bytes:
    from google.protobuf import json_format

    from meshlib.config.messages import message

    # Envoy writes protobuf's own names, we JSON's; both mean the same message.
    plain = {name: value for name, value in body.items() if name != "@type"}
    made = message(_MESSAGES[kind])()
    json_format.ParseDict(plain, made, descriptor_pool=made.DESCRIPTOR.file.pool)
    return bytes(made.SerializeToString(deterministic=True))


def _addresses(body: Json, endpoints: str, socket: str, port: str) -> Iterator[tuple[str, int]]:
    for group in body.get("endpoints", ()):
        for one in group.get(endpoints, ()):
            where = one["endpoint"]["address"][socket]
            yield where["address"], where[port]


def _trusted(body: Json, context: str, ca: str) -> str:
    import base64

    found = body.get(context, {}).get(ca, {})
    text = found.get("inlineString") or found.get("inline_string")
    # Envoy may show it as bytes.
    return str(text or base64.b64decode(found.get("inlineBytes") or found.get("inline_bytes") or "").decode())


def _extra(kind: str, name: str) -> dict[str, Any]:
    # Its certificate comes from its own machine, never from the control plane.
    own = kind == "secret"
    return {
        "type": kind,
        "name": name,
        "status": "-",
        "held": {"tlsCertificate": {}} if own else None,
        "error": "",
        "objects": [],
        "inUse": "own" if own else "extra",
    }
