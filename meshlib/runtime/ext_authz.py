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
            self._unanswered(service.target, f"{error.code().name}: {error.details()}")
            return None
        self._answered(service.target)
        return verdict(answer)

    async def ask_async(self, question: AskGrpc) -> Verdict | None:
        """As `ask`, for the running event loop."""
        service = question.service
        try:
            call = self._channels.async_call(service.target)
            answer = await call(self._request(question), timeout=service.timeout or None)
        except grpc.RpcError as error:
            self._unanswered(service.target, f"{error.code().name}: {error.details()}")
            return None
        self._answered(service.target)
        return verdict(answer)

    def ask_http(self, question: AskHttp) -> Heard | None:
        """The authorizer's answer; None: it gave none."""
        service = question.service
        limit = Timeout(connect=service.timeout or None, read=service.timeout or None, write=service.timeout or None)
        try:
            found = self._joined().client().send(question.request, question.body, timeout=limit, host=service.target)
            heard = outside(question) if found is None else _heard(found.status, found.headers, found.read())
        except _LOST as error:
            self._unanswered(service.target, str(error))
            return None
        self._answered(service.target)
        return heard

    async def ask_http_async(self, question: AskHttp) -> Heard | None:
        """As `ask_http`, for the running event loop."""
        service = question.service
        try:
            async with asyncio.timeout(service.timeout or None):
                found = await self._joined().async_client().send(question.request, question.body, host=service.target)
                if found is None:
                    heard = await asyncio.to_thread(outside, question)
                else:
                    heard = _heard(found.status, found.headers, await found.read())
        except _LOST as error:
            self._unanswered(service.target, str(error))
            return None
        self._answered(service.target)
        return heard

    def _joined(self) -> Mesh:
        mesh = self._mesh()
        if mesh is None:
            raise OSError("the mesh is gone")
        return mesh

    def _request(self, question: AskGrpc) -> Any:
        mesh = self._mesh()
        return check_request(question, str(mesh.certificates.spiffe_id or "") if mesh is not None else "")

    def _answered(self, target: str) -> None:
        if target in self._silent:
            self._silent.discard(target)
            _log.info("meshlib: the authorizer %s answers again", target)

    def _unanswered(self, target: str, why: str) -> None:
        if target not in self._silent:  # an outage is told once
            self._silent.add(target)
            _log.warning("meshlib: the authorizer %s does not answer: %s", target, why or "it took too long")


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


def _facts(struct: Any) -> dict[str, Any]:
    """A Struct as plain data. Not by protobuf's JSON: that raises for numbers which are none (NaN), and Envoy takes them."""
    return {name: _fact(value) for name, value in struct.fields.items()}


def _fact(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    match kind:
        case "struct_value":
            return _facts(value.struct_value)
        case "list_value":
            return [_fact(one) for one in value.list_value.values]
        case None | "null_value":
            return None
    return getattr(value, kind)


def verdict(answer: Any) -> Verdict:
    """A CheckResponse in our words."""
    metadata = (
        answer.ok_response.dynamic_metadata if answer.ok_response.HasField("dynamic_metadata") else answer.dynamic_metadata
    )
    facts = _facts(metadata)
    if answer.status.code == 0:
        found = answer.ok_response
        return Verdict(
            Word.IN,
            changes=_for_application(found.headers),
            removed=tuple(name.lower() for name in found.headers_to_remove),
            query=Query(
                tuple((one.key, one.value) for one in found.query_parameters_to_set), tuple(found.query_parameters_to_remove)
            ),
            told=tuple(map(_for_client, found.response_headers_to_add)),
            metadata=facts,
        )
    word = Word.ERROR if answer.HasField("error_response") else Word.OUT
    found = answer.error_response if word is Word.ERROR else answer.denied_response
    # Envoy 1.40: what is to be joined to a header finds none in a refusal (tried).
    heard = [one for one in found.headers if word is Word.ERROR or not one.append.value]
    told = tuple(Change(_name(one), _value(one), Way.ADD) for one in heard)
    return Verdict(word, found.status.code, found.body, told=told, metadata=facts)


def _for_application(options: Any) -> tuple[Change, ...]:
    """Envoy 1.40 looks at the former field `append` only, and joins after it has set (tried)."""
    found = [Change(_name(one), _value(one), Way.JOIN_IF_PRESENT if one.append.value else Way.SET) for one in options]
    return tuple(sorted(found, key=lambda change: change.way is Way.JOIN_IF_PRESENT))


def _for_client(option: Any) -> Change:
    name = option.DESCRIPTOR.fields_by_name["append_action"].enum_type.values_by_number.get(option.append_action)
    return Change(_name(option), _value(option), Way(name.name) if name is not None else Way.ADD)


def _name(option: Any) -> str:
    return str(option.header.key.lower())


def _value(option: Any) -> str:
    header = option.header
    return str(header.value.encode().decode("latin-1") if header.value else header.raw_value.decode("latin-1"))
