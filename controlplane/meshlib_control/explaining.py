"""The answer to "where would this request go": made from the very resources that the asking client gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from meshlib.config.decode import TYPE_URLS, decode
from meshlib.config.model import Cluster, Fault, Origin, RetryPolicy, RouteConfiguration
from meshlib.config.snapshot import Destination, listener_name
from meshlib.config.subscription import Kind
from meshlib.errors import ConfigurationError
from meshlib.facts import Request
from meshlib.outbound.explain import Considered, Explanation, Target, explain

from .model import Node
from .snapshots import NodeView


class BadQuestion(ConfigurationError):
    """The URL is none, or not one that a mesh routes."""


def explain_request(view: NodeView, request: Request) -> dict[str, Any]:
    """What happens to a request of a client.

    Args:
        view: the configuration as that client sees it.
    """
    destination = find_destination(view, request.authority)
    if destination is None:
        return {
            "inMesh": False,
            "authority": request.authority,
            "message": f"{request.authority} is not in the mesh: the request goes out as if there were no mesh",
        }
    return {"inMesh": True, **_explanation(explain(destination, request))}


def find_destination(view: NodeView, authority: str) -> Destination | None:
    """All that the client of this view gets for an authority; None if the mesh does not know it."""
    name = listener_name(authority)
    listener = _decoded(view, Kind.LISTENER, name) if name else None
    routes = _decoded(view, Kind.ROUTE, listener.route_configuration) if listener is not None else None
    if name is None or routes is None:
        return None
    clusters = {cluster.name: cluster for cluster in _clusters(view, routes)}
    assignments = {
        cluster.assignment: found
        for cluster in clusters.values()
        if cluster.assignment and (found := _decoded(view, Kind.ASSIGNMENT, cluster.assignment)) is not None
    }
    return Destination(name, routes, clusters, assignments)


def question(method: str, url: str, headers: Sequence[tuple[str, str]]) -> Request:
    """A request from the words of a command line.

    Raises:
        BadQuestion: the URL is none, or https (the mesh cannot see into it).
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.netloc:
        reason = "the mesh sees only http requests inside" if parts.scheme == "https" else "no http URL"
        raise BadQuestion(f"{url!r}: {reason}; write for example http://reviews:9080/reviews/0", field="url")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = tuple((name.lower(), value) for name, value in headers)
    authority = next((value for name, value in given if name == "host"), parts.netloc.rpartition("@")[2])
    return Request(method.upper(), "http", authority, path, tuple(item for item in given if item[0] != "host"))


def asking_node(nodes: Sequence[Node], service: str, namespace: str, trust_domain: str) -> tuple[Node, bool]:
    """The client that asks, and whether it is connected; if not, one is assumed.

    Args:
        service: short name, or `name.namespace`; empty: a client that serves nothing.
    """
    name, _, where = service.partition(".")
    where = where.partition(".")[0] or namespace
    for node in nodes:
        if node.namespace == where and any(entry.service == name for entry in node.registrations):
            return node, True
    account = name or "default"
    return (
        Node(
            id=f"library~127.0.0.1~{account}.{where}~{where}.svc",
            kind="library",
            instance=account,
            namespace=where,
            service_account=account,
            spiffe_id=f"spiffe://{trust_domain}/ns/{where}/sa/{account}",
            labels={"app": name} if name else {},
        ),
        False,
    )


def _clusters(view: NodeView, routes: RouteConfiguration) -> Iterator[Cluster]:
    names = dict.fromkeys(share.name for host in routes.virtual_hosts for route in host.routes for share in route.clusters)
    for name in names:
        cluster = _decoded(view, Kind.CLUSTER, name)
        if cluster is not None:
            yield cluster


def _decoded(view: NodeView, kind: Kind, name: str) -> Any:
    resource = view.resource(TYPE_URLS[kind], name)
    return decode(kind, resource.body) if resource is not None else None


def _explanation(found: Explanation) -> dict[str, Any]:
    return {
        "authority": found.authority,
        "host": found.virtual_host,
        "domain": found.domain,
        "route": found.route,
        "origin": origin_data(found.origin),
        "considered": [_considered(entry) for entry in found.considered],
        "targets": [_target(target) for target in found.targets],
        "timeoutSeconds": found.timeout,
        "perTryTimeoutSeconds": found.per_try_timeout,
        "retry": _retry(found.retry),
        "fault": _fault(found.fault),
    }


def _considered(entry: Considered) -> dict[str, Any]:
    return {"route": entry.route, "matched": entry.matched, "reason": entry.reason, "origin": origin_data(entry.origin)}


def _target(target: Target) -> dict[str, Any]:
    return {
        "cluster": target.cluster,
        "percent": round(target.percent, 2),
        "loadBalancer": target.policy,
        "endpoints": [
            {"address": one.address, "workload": one.workload, "healthy": one.healthy, "mutualTls": one.tls}
            for one in target.candidates
        ],
        "identities": list(target.identities),
        "problem": target.problem,
        "origin": origin_data(target.origin),
    }


def origin_data(origin: Origin | None) -> dict[str, Any] | None:
    """Where something was written down, as JSON has it."""
    if origin is None:
        return None
    return {"object": origin.object, "file": origin.file, "line": origin.line, "field": origin.field}


def _retry(policy: RetryPolicy | None) -> dict[str, Any] | None:
    if policy is None:
        return None
    return {"attempts": policy.retries, "on": sorted(policy.retry_on), "statusCodes": sorted(policy.status_codes)}


def _fault(fault: Fault | None) -> dict[str, Any] | None:
    if fault is None:
        return None
    delay, abort = fault.delay, fault.abort
    return {
        "delay": {"percent": round(delay.fraction * 100, 4), "seconds": delay.seconds} if delay else None,
        "abort": {"percent": round(abort.fraction * 100, 4), "httpStatus": abort.http_status} if abort else None,
    }
