"""What reads bytes of strangers, one function each: bytes in, and no other errors than those it promises.

An error that a reader does not promise is a crash: in a data path it would be an answer of 500, or a thread that ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.config.decode import TYPE_URLS, decode
from meshlib.config.messages import message
from meshlib.config.policy import Normalization
from meshlib.config.subscription import Kind, Subscription
from meshlib.errors import ConfigurationError, CredentialError, IdentityError, WorkloadApiError
from meshlib.facts import Peer, Request
from meshlib.identity.csr import new_request
from meshlib.identity.jwk import read_keys
from meshlib.identity.jwt import JwtRefused, check_signature
from meshlib.identity.jwt import read as read_jwt
from meshlib.identity.leaf import leaf_from_pem
from meshlib.identity.peer import peer_from_der
from meshlib.identity.revocation import refuse_revoked
from meshlib.identity.spiffe import SpiffeId
from meshlib.identity.svid import svid_from_pem
from meshlib.inbound import codec
from meshlib.inbound.normalize import normalize
from meshlib.inbound.visit import Visit
from meshlib.path import normalized
from meshlib.runtime.ext_authz import verdict
from meshlib.runtime.http1 import MalformedResponse, ResponseParser
from meshlib.runtime.rate_limit import judged
from meshlib.runtime.trust import roots_of
from meshlib.runtime.workload_api import identity_from
from meshlib.runtime.xds import from_response
from meshlib.telemetry.context import Propagation, extract
from meshlib_control import intake
from meshlib_control.authn import Caller
from meshlib_control.ca import open_authority
from meshlib_control.ca_request import RequestRejected
from meshlib_control.model import Node
from meshlib_control.tokens import open_issuer
from meshlib_control.translate import translate
from meshlib_control.translate.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meshlib_control.xds.exchange import Variant
from meshlib_control.xds.limits import Limits, TooMuch
from meshlib_control.xds.node import read_node
from meshlib_control.xds.wire import read_request
from tests.support import worlds
from tests.support.pki import Authority, Leaf

NOW = datetime(2026, 1, 1, tzinfo=UTC)

YAML = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {end-user: {regex: "ja.*"}}, queryParams: {x: {exact: "1"}}}, {uri: {prefix: /a}, method: {exact: GET}}]
    fault: {delay: {fixedDelay: 2s, percentage: {value: 10}}, abort: {httpStatus: 500, percentage: {value: 1}}}
    timeout: 3s
    retries: {attempts: 3, retryOn: "5xx,409", perTryTimeout: 1s}
    route: [{destination: {host: reviews, subset: v1}, weight: 80}, {destination: {host: reviews, subset: v2}, weight: 20}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 3}, http: {http1MaxPendingRequests: 2}}
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s}
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews}
spec:
  rules:
  - from: [{source: {principals: ["cluster.local/ns/default/sa/*"], notIpBlocks: [10.0.0.0/8]}}]
    to: [{operation: {methods: [GET], paths: [/reviews/*, "/a/{*}/b/{**}"], notHosts: [x]}}]
    when: [{key: "request.headers[x]", values: [a*]}, {key: "request.auth.claims[groups]", values: [admin]}]
"""


@dataclass(frozen=True)
class Target:
    """A reader, and samples that it accepts, from which others are made."""

    read: Callable[[bytes], object]
    samples: Callable[[], Iterable[bytes]]


def _promising(read: Callable[[bytes], object], *promised: type[Exception]) -> Callable[[bytes], object]:
    def quiet(data: bytes) -> None:
        with suppress(*promised):
            read(data)

    return quiet


# What the control plane sends


@cache
def _world() -> Any:
    return worlds.world(YAML)


def _resources(type_url: str, names: Iterable[str], node: Node) -> list[bytes]:
    found = (translate(_world(), node, type_url, name) for name in names)
    return [one.body for one in found if one is not None]


def _samples(kind: Kind) -> list[bytes]:
    server = worlds.REVIEWS[0]
    inbound = f"xds.istio.io/grpc/lds/inbound/{server.address}:{server.registrations[0].target_port}"
    names = {
        Kind.LISTENER: (LISTENER, ["reviews:9080", inbound]),
        Kind.ROUTE: (ROUTE, [worlds.outbound("reviews")]),
        Kind.CLUSTER: (CLUSTER, [worlds.outbound("reviews"), worlds.outbound("reviews", subset="v1")]),
        Kind.ASSIGNMENT: (ENDPOINT, [worlds.outbound("reviews")]),
    }
    return _resources(*names[kind], server)


def _resource(kind: Kind) -> Target:
    return Target(_promising(lambda data: decode(kind, data), ConfigurationError), lambda: _samples(kind))


def _stream(data: bytes) -> None:
    """A response, and what the subscription makes of it."""
    table = Subscription()
    table.want(["reviews:9080"])
    table.on_connect(grace=False)
    update = from_response(data)
    if update is not None:
        table.on_response(update)


def _responses() -> list[bytes]:
    shape = message("envoy.service.discovery.v3.DeltaDiscoveryResponse")
    return [
        shape(
            type_url=url, nonce="1", resources=[{"name": "x", "resource": {"type_url": url, "value": body}}]
        ).SerializeToString()
        for kind, url in TYPE_URLS.items()
        for body in _samples(kind)
    ]


# What other servers answer a member


@cache
def _member() -> tuple[Authority, Leaf]:
    authority = Authority()
    return authority, authority.issue("reviews")


def _secrets() -> list[bytes]:
    authority, leaf = _member()
    context = {
        "trusted_ca": {"inline_string": authority.root.decode()},
        "crl": {"inline_string": authority.revocations(leaf)},
    }
    shape = message("envoy.extensions.transport_sockets.tls.v3.Secret")
    return [shape(name="ROOTCA", validation_context=context).SerializeToString()]


def _lists() -> list[bytes]:
    authority, leaf = _member()
    return [authority.revocations(leaf).encode(), authority.revocations().encode()]


def _svid(data: bytes) -> object:
    return identity_from(message("X509SVIDResponse").FromString(data), "unix:/agent.sock", _issued())


def _issued() -> float:
    """Seconds since the epoch, while the certificate of the samples is good."""
    return leaf_from_pem(_member()[1].chain.decode()).not_before + 60


def _svids() -> list[bytes]:
    authority, leaf = _member()
    found = svid_from_pem(leaf.chain.decode(), leaf.key, authority.root.decode())
    one = {
        "spiffe_id": found.spiffe_id,
        "x509_svid": found.chain,
        "x509_svid_key": found.key,
        "bundle": found.bundle,
    }
    return [message("X509SVIDResponse")(svids=[one]).SerializeToString()]


def _check(data: bytes) -> object:
    return verdict(message("envoy.service.auth.v3.CheckResponse").FromString(data))


def _checks() -> list[bytes]:
    headers = [{"header": {"key": "x-user", "value": "joe"}, "append": {"value": True}}]
    facts = {"fields": {"team": {"struct_value": {"fields": {"size": {"number_value": math.nan}}}}}}
    let_in = {"headers": headers, "headers_to_remove": ["x-key"], "query_parameters_to_set": [{"key": "a", "value": "b"}]}
    refused = {"status": {"code": 401}, "body": "no", "headers": headers}
    shape = message("envoy.service.auth.v3.CheckResponse")
    answers = (
        shape(status={"code": 0}, ok_response=let_in, dynamic_metadata=facts),
        shape(status={"code": 7}, denied_response=refused),
    )
    return [one.SerializeToString() for one in answers]


def _limit(data: bytes) -> object:
    return judged(message("envoy.service.ratelimit.v3.RateLimitResponse").FromString(data))


def _limits() -> list[bytes]:
    limit = {"current_limit": {"requests_per_unit": 3, "unit": 2, "name": "x"}, "limit_remaining": 1}
    headers = [{"key": "x-why", "value": "often"}]
    answer = message("envoy.service.ratelimit.v3.RateLimitResponse")(
        overall_code=2, statuses=[{"code": 2, **limit}], response_headers_to_add=headers, raw_body=b"slow down"
    )
    return [answer.SerializeToString()]


# What clients of the control plane send


def _node() -> Any:
    return message("envoy.config.core.v3.Node")(id="library~127.0.0.1~x.default~default.svc.cluster.local", cluster="x")


def _asked(name: str) -> list[bytes]:
    request = message(f"envoy.service.discovery.v3.{name}")(node=_node(), type_url=LISTENER)
    request.node.metadata.update({"LABELS": {"a": "b"}, "MESHLIB_SERVICES": [{"service": "x", "port": 1, "target_port": 2}]})
    return [request.SerializeToString()]


def _ask(variant: Variant) -> Callable[[bytes], object]:
    caller = Caller(SpiffeId("cluster.local", "default", "reviews"))

    def read(data: bytes) -> None:
        request = read_request(variant, data, Limits())
        if request.node is not None:
            read_node(request.node, caller)

    return _promising(read, ConfigurationError, PermissionError, TooMuch)


@cache
def _authority() -> Any:
    with TemporaryDirectory() as folder:
        return open_authority(Path(folder), NOW)


def _sign(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    return _authority().issue(text, "spiffe://cluster.local/ns/default/sa/reviews", timedelta(hours=1), NOW)


@cache
def _issuer() -> Any:
    with TemporaryDirectory() as folder:
        return open_issuer(Path(folder))


def _join(data: bytes) -> object:
    return _issuer().verify(data.decode("latin-1"), NOW)


# What callers and peers send


def _arrive(data: bytes) -> None:
    """A path, normalized twice: the second time nothing may change, or two readers could disagree.

    Dots with parameters are the exception: Envoy resolves `/.;` where it is written plainly, and leaves `/%2e;` as `/.;`.
    """
    text = data.decode("latin-1").replace("\0", "")  # no request line that a server accepts holds one
    once = normalized(text)
    assert once is None or "/.;" in once or "/..;" in once or normalized(once) == once, (text, once)
    for how in (Normalization(normalize=True), Normalization(normalize=True, merge_slashes=True)):
        normalize(how, Visit(Request("GET", "http", "reviews", text), Peer()))


def _headers(data: bytes) -> object:
    return extract(_lines(data.decode("latin-1")), Propagation())


def _lines(text: str) -> tuple[tuple[str, str], ...]:
    found = [line.partition(": ") for line in text.split("\n")]
    return tuple((name.lower(), value) for name, _, value in found)


def _request(data: bytes) -> object:
    """Method, path and authority, then headers, each on a line."""
    method, path, authority, *rest = (data.decode("latin-1") + "\n\n").split("\n")
    return codec.read(Visit(Request(method, "http", authority, path, _lines("\n".join(rest))), Peer()))


def _token(data: bytes) -> None:
    token, _, keys = data.decode("latin-1").partition("\n")
    found = read_jwt(token)
    check_signature(found, read_keys(keys))


def _tokens() -> list[bytes]:
    return [f'{_issuer().create("default", "reviews", NOW)}\n{{"keys": [{key}]}}'.encode() for key in _KEYS]


_EC = (
    '{"kty":"EC","crv":"P-256","alg":"ES256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",'
    '"y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}'
)
_KEYS = (_EC, '{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}')


def _certificates() -> list[bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return [x509.load_pem_x509_certificate(Authority().issue("reviews").chain).public_bytes(Encoding.DER)]


def _answer(data: bytes) -> None:
    parser = ResponseParser()
    parser.begin("GET")
    parser.feed(data)


_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n"
_ANSWERS = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + _CHUNKED,
)
_REQUESTS = (
    b"GET\n/a\nreviews:9080\nconnection: keep-alive, x-team\nx-team: a",
    b"GET\n/a\n[::1]:80\nconnection: upgrade, http2-settings\nupgrade: h2c, websocket\nhttp2-settings: a\nte: trailers",
    b"CONNECT\nreviews:9080\nreviews:9080\ntransfer-encoding: chunked",
)
_TRACES = (
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nx-request-id: 1",
    b"b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1\nx-b3-sampled: 1",
)

TARGETS: Mapping[str, Target] = {
    **{kind.name.lower(): _resource(kind) for kind in Kind},
    "discovery response": Target(_promising(_stream, DecodeError), _responses),
    "roots": Target(_promising(roots_of, IdentityError), _secrets),
    "revocation lists": Target(_promising(lambda data: refuse_revoked(_member()[1].chain, data), IdentityError), _lists),
    "workload api": Target(_promising(_svid, DecodeError, WorkloadApiError), _svids),
    "authorizer": Target(_promising(_check, DecodeError), _checks),
    "rate limit service": Target(_promising(_limit, DecodeError), _limits),
    "discovery request": Target(_ask(Variant.STATE_OF_THE_WORLD), lambda: _asked("DiscoveryRequest")),
    "delta request": Target(_ask(Variant.DELTA), lambda: _asked("DeltaDiscoveryRequest")),
    "yaml": Target(
        _promising(lambda data: intake.accept(data.decode("utf-8", "replace")), ConfigurationError), lambda: [YAML.encode()]
    ),
    "signing request": Target(_promising(_sign, RequestRejected), lambda: [new_request().pem.encode()]),
    "join token": Target(_promising(_join, CredentialError), lambda: [_issuer().create("default", "x", NOW).encode()]),
    "jwt": Target(_promising(_token, JwtRefused, ConfigurationError), _tokens),
    "peer certificate": Target(_promising(peer_from_der, IdentityError), _certificates),
    "path": Target(_arrive, lambda: [b"/a/../%2e/b%2F\\c//d?x=%00#y", b"/reviews/0", b"/%", b"*"]),
    "request": Target(_request, lambda: _REQUESTS),
    "trace headers": Target(_headers, lambda: _TRACES),
    "http response": Target(_promising(_answer, MalformedResponse), lambda: _ANSWERS),
}
