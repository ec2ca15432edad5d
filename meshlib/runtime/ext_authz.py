"""Asks authorizers for the filters of our port, by gRPC (envoy.service.auth.v3) or HTTP, blocking or on asyncio.

A service of the mesh is balanced and reached over mutual TLS as by any other caller; one outside is asked in plain text, as by
Envoy. What gives no answer in time is no answer, and the filter decides what that means.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import weakref
from contextlib import closing
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict

from meshlib.config.messages import message
from meshlib.errors import MeshError
from meshlib.facts import Request
from meshlib.inbound.ext_authz import AskGrpc, AskHttp, Heard, Verdict, Word
from meshlib.inbound.header_change import Change, Query, Way
from meshlib.runtime.channels import Channels, utf8
from meshlib.runtime.timing import Timeout

if TYPE_CHECKING:
    from meshlib.runtime.mesh import Mesh

METHOD = "/envoy.service.auth.v3.Authorization/Check"
MOST_HEARD = 1 << 20
"""Bytes of an answer; a longer one is none."""

_log = logging.getLogger("meshlib")
_LOST = (MeshError, OSError, http.client.HTTPException, ValueError)
"""What no answer looks like."""


class Authorizers:
    """The authorizers that a process asks.

    Args:
        mesh: whose identity and routes the calls have.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = weakref.ref(mesh)
        self._channels = Channels(mesh, METHOD, "envoy.service.auth.v3.CheckRequest", "envoy.service.auth.v3.CheckResponse")
        self._silent: set[str] = set()

    def ask(self, question: AskGrpc) -> Verdict | None:
        """The authorizer's answer; None: it gave none."""
        service = question.service
        try:
            answer = self._channels.call(service.target)(self._request(question), timeout=service.timeout or None)
        except grpc.RpcError as error:
            return self._unanswered(service.target, error)
        return self._answered(service.target, verdict(answer))

    async def ask_async(self, question: AskGrpc) -> Verdict | None:
        """As `ask`, for the running event loop."""
        service = question.service
        try:
            call = self._channels.async_call(service.target)
            answer = await call(self._request(question), timeout=service.timeout or None)
        except grpc.RpcError as error:
            return self._unanswered(service.target, error)
        return self._answered(service.target, verdict(answer))

    def ask_http(self, question: AskHttp) -> Heard | None:
        """The authorizer's answer; None: it gave none."""
        service = question.service
        limit = Timeout(connect=service.timeout, read=service.timeout, write=service.timeout)
        mesh = self._mesh()
        try:
            found = mesh and mesh.client().send(question.request, question.body, timeout=limit, host=service.target)
            if found is None:
                return self._answered(service.target, outside(question))
            with closing(found):
                return self._answered(service.target, _heard(found.status, found.headers, found.read()))
        except _LOST as error:
            return self._unanswered(service.target, error)

    async def ask_http_async(self, question: AskHttp) -> Heard | None:
        """As `ask_http`, for the running event loop."""
        service = question.service
        mesh = self._mesh()
        try:
            async with asyncio.timeout(service.timeout or None):
                found = mesh and await mesh.async_client().send(question.request, question.body, host=service.target)
                if found is None:
                    return self._answered(service.target, await asyncio.to_thread(outside, question))
                with closing(found):
                    return self._answered(service.target, _heard(found.status, found.headers, await found.read()))
        except _LOST as error:
            return self._unanswered(service.target, error)

    def _request(self, question: AskGrpc) -> Any:
        mesh = self._mesh()
        return check_request(question, str(mesh.certificates.spiffe_id or "") if mesh is not None else "")

    def _answered(self, target: str, answer: Any) -> Any:
        if target in self._silent:
            self._silent.discard(target)
            _log.info("meshlib: the authorizer %s answers again", target)
        return answer

    def _unanswered(self, target: str, error: Any) -> None:
        if target not in self._silent:  # an outage is told once
            self._silent.add(target)
            words = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else str(error)
            _log.warning("meshlib: the authorizer %s does not answer: %s", target, words)


def outside(question: AskHttp) -> Heard:
    """Ask somebody outside of the mesh, in plain text. Raises OSError, HTTPException."""
    request = question.request
    connection = http.client.HTTPConnection(question.service.target, timeout=question.service.timeout or None)
    with closing(connection):
        connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in (("host", request.authority), *request.headers):
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(question.body or None)
        response = connection.getresponse()
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders()]
        return _heard(response.status, headers, response.read(MOST_HEARD + 1))


def _heard(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Heard:
    if len(body) > MOST_HEARD:
        raise ValueError(f"its answer has more than {MOST_HEARD} bytes")
    return Heard(status, tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers), body)


# Envoy's messages


def check_request(question: AskGrpc, principal: str) -> Any:
    """A CheckRequest with the attributes that Envoy fills.

    Args:
        principal: our own identity; empty: none.
    """
    request = question.request
    seconds, rest = divmod(question.now, 1)
    facts = {
        "method": request.method,
        "path": utf8(request.path),
        "host": utf8(request.authority),
        "scheme": question.headers.get(":scheme", request.scheme),
        "headers": {utf8(name): utf8(value) for name, value in question.headers.items()},
        "protocol": _protocol(request),
        "size": len(question.body or b""),
        **_body(question),
    }
    metadata = {name: _struct(value) for name, value in question.metadata.items() if isinstance(value, dict)}
    attributes = {
        "source": {"address": _address(question.peer.address), "principal": question.peer.spiffe_id},
        "destination": {
            "address": _address(question.local_address),
            "principal": principal if question.peer.secured else "",
        },
        "request": {"time": {"seconds": int(seconds), "nanos": int(rest * 1e9)}, "http": facts},
        "metadata_context": {"filter_metadata": metadata},
    }
    return message("envoy.service.auth.v3.CheckRequest")(attributes=attributes)


def _protocol(request: Request) -> str:
    return "HTTP/2" if (request.header("content-type") or "").startswith("application/grpc") else "HTTP/1.1"


def _body(question: AskGrpc) -> dict[str, Any]:
    if question.body is None:
        return {}
    return {"raw_body": question.body} if question.as_bytes else {"body": question.body.decode("utf-8", "replace")}


def _address(text: str) -> dict[str, Any]:
    host, _, port = text.rpartition(":")
    if not host:
        return {}
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port) if port.isdigit() else 0}}


def _struct(value: dict[str, Any]) -> Any:
    found = message("google.protobuf.Struct")()
    found.update(value)
    return found


def verdict(answer: Any) -> Verdict:
    """A CheckResponse in our words."""
    metadata = (
        answer.ok_response.dynamic_metadata if answer.ok_response.HasField("dynamic_metadata") else answer.dynamic_metadata
    )
    facts = MessageToDict(metadata)
    if answer.status.code == 0:
        found = answer.ok_response
        return Verdict(
            Word.IN,
            changes=_changes(found.headers),
            removed=tuple(name.lower() for name in found.headers_to_remove),
            query=Query(
                tuple((one.key, one.value) for one in found.query_parameters_to_set), tuple(found.query_parameters_to_remove)
            ),
            told=_changes(found.response_headers_to_add),
            metadata=facts,
        )
    word = Word.ERROR if answer.HasField("error_response") else Word.OUT
    found = answer.error_response if word is Word.ERROR else answer.denied_response
    return Verdict(word, found.status.code, found.body, told=_changes(found.headers), metadata=facts)


def _changes(options: Any) -> tuple[Change, ...]:
    return tuple(Change(one.header.key.lower(), _value(one.header), _way(one)) for one in options)


def _value(header: Any) -> str:
    return header.value.encode().decode("latin-1") if header.value else header.raw_value.decode("latin-1")


def _way(option: Any) -> Way:
    if option.HasField("append"):
        return Way.JOIN_IF_PRESENT if option.append.value else Way.SET
    name = option.DESCRIPTOR.fields_by_name["append_action"].enum_type.values_by_number.get(option.append_action)
    return Way(name.name) if name is not None else Way.SET
