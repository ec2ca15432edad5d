"""The delta ADS stream: protobuf envelopes and gRPC here, facts (`meshlib.config.subscription`) everywhere else.

One stream, one connection. A thread of its own reads it; nothing here waits or retries, `control` does.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from meshlib._version import __version__
from meshlib.config.decode import TYPE_URLS, decode
from meshlib.config.messages import message
from meshlib.config.subscription import Ask, Item, Kind, Update
from meshlib.errors import ConfigurationError, ControlPlaneError
from meshlib.runtime.credential import REFUSALS, Credential
from meshlib.runtime.events import Announcement
from meshlib.runtime.node import node_cluster, node_id, node_locality, node_metadata, served
from meshlib.runtime.settings import Settings
from meshlib.runtime.trust import Trust

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
INVALID_ARGUMENT = 3  # google.rpc.Code; what Envoy puts in a NACK

_CHANNEL_OPTIONS = (
    # Each try is a connection of its own: no back-off and no state shared with other channels of the process.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    # Notices a control plane that vanished without closing. Ours and Istio's allow pings this often.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

_log = logging.getLogger("meshlib")
_KINDS = {url: kind for kind, url in TYPE_URLS.items()}


def node(settings: Settings, announcement: Announcement) -> Any:
    """The xDS node that this library is."""
    address = announcement.address
    found = message("envoy.config.core.v3.Node")(
        id=node_id("library", settings, address),
        cluster=node_cluster(settings),
        locality=node_locality(settings),
        user_agent_name="meshlib",
        user_agent_version=__version__,
    )
    port = announcement.target_port if announcement.listed else 0
    services = served(settings, port, announcement.protocol)
    found.metadata.update(node_metadata("library", settings, address, services))
    return found


def to_request(ask: Ask, node: Any | None = None) -> bytes:
    """A delta request on the wire; the node goes with the first one of a stream."""
    request = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
        type_url=TYPE_URLS[ask.kind],
        resource_names_subscribe=ask.subscribe,
        resource_names_unsubscribe=ask.unsubscribe,
        initial_resource_versions=dict(ask.versions),
        response_nonce=ask.nonce,
    )
    if node is not None:
        request.node.CopyFrom(node)
    if ask.problem:
        request.error_detail.code = INVALID_ARGUMENT
        request.error_detail.message = ask.problem
    return bytes(request.SerializeToString())


def from_response(raw: bytes) -> Update | None:
    """A delta response as facts, its resources decoded; None for a type we never asked for."""
    response = message("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString(raw)
    kind = _KINDS.get(response.type_url)
    if kind is None:
        return None
    items, problems = [], []
    for resource in response.resources:
        try:
            items.append(_item(kind, resource))
        except ConfigurationError as error:
            problems.append(f"{resource.name}: {error}")
        except Exception as error:  # a fault of ours in decoding must end as a NACK, not end the thread
            _log.exception("meshlib: decoding %s failed", resource.name)
            problems.append(f"{resource.name}: {type(error).__name__}: {error}")
    refused = tuple(resource.name for resource in response.resources) if problems else ()
    return Update(kind, response.nonce, tuple(items), tuple(response.removed_resources), "; ".join(problems), refused)


def _item(kind: Kind, resource: Any) -> Item:
    if resource.resource.type_url != TYPE_URLS[kind]:
        raise ConfigurationError(f"is a {resource.resource.type_url or '(nothing)'} in a response of {TYPE_URLS[kind]}")
    return item(kind, resource.name, resource.version, resource.resource.value)


def item(kind: Kind, name: str, version: str, body: bytes) -> Item:
    """A resource decoded. Raises ConfigurationError, also for one that says another name than it was sent under."""
    value = decode(kind, body)
    if value.name != name:
        raise ConfigurationError(f"the resource calls itself {value.name!r}", field="name")
    return Item(name, version, value, body)


class Stream:
    """One open stream. `on_response` and `on_end` are called in the stream's own thread; `on_end` once, last.

    Args:
        credential: what to show; told of a refusal before `on_end` is.
        trust: whom to believe to be the control plane; told of the roots that the control plane sends.

    Raises SettingsError if the token or the root certificate cannot be read.
    """

    def __init__(
        self,
        credential: Credential,
        trust: Trust,
        settings: Settings,
        announcement: Announcement,
        on_response: Callable[[bytes], None],
        on_end: Callable[[ControlPlaneError], None],
    ) -> None:
        self._address = settings.control_plane
        self._node: Any | None = node(settings, announcement)
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._credential, self._shown = credential, credential.show()
        self._trust = trust
        credentials = grpc.ssl_channel_credentials(root_certificates=trust.control_plane_roots())
        self._channel = grpc.secure_channel(self._address, credentials, options=_CHANNEL_OPTIONS)
        call = self._channel.stream_stream(METHOD)
        self._call = call(iter(self._outgoing.get, None), metadata=self._shown.metadata)
        reader = threading.Thread(target=self._read, args=(on_response, on_end), name="meshlib-xds", daemon=True)
        reader.start()

    def send(self, asks: Iterable[Ask]) -> None:
        """Queue requests; never waits."""
        for ask in asks:
            self._outgoing.put(to_request(ask, self._node))
            if self._node is not None:  # the first one says who we are
                self._outgoing.put(self._trust.subscription())
            self._node = None

    def close(self) -> None:
        """End the stream and its connection; idempotent."""
        self._outgoing.put(None)
        self._call.cancel()
        self._channel.close()

    def _read(self, on_response: Callable[[bytes], None], on_end: Callable[[ControlPlaneError], None]) -> None:
        try:
            for raw in self._call:
                answer = self._trust.answer(raw)
                if answer is not None:
                    self._outgoing.put(answer)
                else:
                    on_response(raw)
        except grpc.RpcError as error:
            on_end(self._translated(error))
        else:
            on_end(ControlPlaneError(f"the control plane at {self._address} ended the stream"))
        finally:
            self._outgoing.put(None)  # lets gRPC's sending thread end

    def _translated(self, error: grpc.RpcError) -> ControlPlaneError:
        code, details = error.code(), (error.details() or "").strip()
        if code.name in REFUSALS:
            return self._credential.refused(self._shown, self._address, details)
        return _unreachable(code, details, self._address)


def _unreachable(code: grpc.StatusCode, details: str, address: str) -> ControlPlaneError:
    if "CERTIFICATE_VERIFY_FAILED" in details or "certificate verify failed" in details:
        return ControlPlaneError(
            f"the control plane at {address} cannot be trusted: {details}; "
            "set MESHLIB_ROOT_CERT to its root certificate, and check this machine's clock"
        )
    return ControlPlaneError(f"the control plane at {address} cannot be reached: {code.name}: {details}")
