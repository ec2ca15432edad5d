"""Whom this process trusts, while that changes: roots are replaced in a running mesh.

    a certificate's answer ──roots──┐
    stream: ROOTCA (SDS) ──roots────┼─> the newest word counts, for new handshakes
    root file (MESHLIB_ROOT_CERT) ──┘   (the file for the control plane only, besides the others)
    SPIFFE Workload API ──bundle───────> counts besides the control plane's, each as it was said last

Rule 1: the root file lets a process join. From then on the control plane may also prove itself by what the mesh trusts: the
        file grows old when the root is replaced, and this process does not.
Rule 2: roots whose first one is another than before are the sign to renew: the first is the one that signs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from meshlib.config.messages import message, type_url
from meshlib.errors import IdentityError, SettingsError
from meshlib.runtime.certificates import Certificates, Identity

ROOTS = "ROOTCA"
"""Istio's name of the secret with the roots."""

SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  a type's name
_URL = type_url(SECRET)
_DISCOVERY = "envoy.service.discovery.v3."
_INVALID_ARGUMENT = 3  # google.rpc.Code; what Envoy puts in a NACK

_log = logging.getLogger("meshlib")


class Trust:
    """What a process that has joined trusts.

    Args:
        root_cert: reads the root file; None: the system's roots prove the control plane.
        certificates: get new roots.
        on_new_issuer: told when another root signs than the one of our certificate. From any thread.
    """

    def __init__(
        self,
        root_cert: Callable[[], bytes | None],
        certificates: Certificates,
        on_new_issuer: Callable[[], None] = lambda: None,
    ) -> None:
        self._root_cert = root_cert
        self._certificates = certificates
        self._on_new_issuer = on_new_issuer
        self._bundle = self._distributed = ""
        self._one_at_a_time = threading.Lock()  # an agent and the control plane may speak in the same moment

    def control_plane_roots(self) -> bytes | None:
        """PEM of what proves the control plane now; None: the system's roots.

        Raises:
            SettingsError: the root file cannot be read, and there is no certificate yet.
        """
        identity = self._certificates.identity
        try:
            given = self._root_cert()
        except SettingsError:
            if identity is None:
                raise
            given = b""
        if given is None or identity is None:
            return given
        return given + b"\n" + identity.roots.encode()

    def accept(self, roots: str, revoked: str = "") -> None:
        """The mesh trusts these from now on.

        Args:
            roots: PEM, the one that signs first.
            revoked: PEM of lists of certificates that count no more; empty: there are none.

        Raises:
            IdentityError: they are no certificates, or no lists.
        """
        with self._one_at_a_time:
            renew = self._certificates.trust(self._bundle + roots, revoked)
            self._distributed = roots
        if renew:
            self._on_new_issuer()

    def install(self, identity: Identity) -> None:
        """An identity that did not come from the control plane: its roots count besides those of the mesh.

        Raises:
            IdentityError: OpenSSL does not accept it.
        """
        with self._one_at_a_time:
            self._certificates.install(replace(identity, roots=identity.roots + self._distributed))
            self._bundle = identity.roots

    # On a delta stream

    def subscription(self) -> bytes:
        """The request that asks for the roots, now and whenever they change."""
        return bytes(
            message(_DISCOVERY + "DeltaDiscoveryRequest")(type_url=_URL, resource_names_subscribe=[ROOTS]).SerializeToString()
        )

    def answer(self, raw: bytes) -> bytes | None:
        """Take a response if it is about roots: what to answer. None: it is about something else."""
        if _URL.encode() not in raw:  # looking is a thousand times cheaper than parsing
            return None
        response = message(_DISCOVERY + "DeltaDiscoveryResponse").FromString(raw)
        if response.type_url != _URL:
            return None
        request = message(_DISCOVERY + "DeltaDiscoveryRequest")(type_url=_URL, response_nonce=response.nonce)
        problem = self._taken(response.resources)
        if problem:
            _log.error("meshlib: refused the roots from the control plane, the old ones stay: %s", problem)
            request.error_detail.code, request.error_detail.message = _INVALID_ARGUMENT, problem
        return bytes(request.SerializeToString())

    def _taken(self, resources: Any) -> str:
        """Why roots cannot be taken; empty: they were, or there are none."""
        try:
            for one in resources:
                if one.name == ROOTS:
                    self.accept(*roots_of(one.resource.value))
        except IdentityError as error:
            return str(error)
        return ""


def roots_of(body: bytes) -> tuple[str, str]:
    """The roots in a serialized Secret, and the lists of what is revoked: PEM. Raises IdentityError for anything else."""
    try:
        secret = message(SECRET).FromString(body)
    except DecodeError as error:
        raise IdentityError(f"these bytes are no secret: {error}") from error
    context = secret.validation_context
    roots = _text(context.trusted_ca)
    if not roots:
        raise IdentityError("the secret holds no roots")
    return roots, _text(context.crl)


def _text(source: Any) -> str:
    return str(source.inline_string or source.inline_bytes.decode(errors="replace"))
