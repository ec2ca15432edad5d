"""What is judged: a set of Istio objects and requests to them, as plain data that can be drawn, shrunk and printed.

Names are tokens until a case gets its place in a batch, so that many cases live in one control plane side by side:
`@a`, `@b` are services (`@A` in upper case), `#3` is the port of an endpoint that answers, `!1` one where nobody listens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshlib.outbound.terms import CONSUMED

Json = dict[str, Any]

REPOSITORY = Path(__file__).parents[2]
NAMESPACE = "default"
PORTS = (80, 9080, 9081)
"""Ports of services."""
ALIVE, DEAD = 12, 4
"""How many endpoints answer, and on how many ports nobody listens."""
OUR_LABELS = {"app": "referee", "version": "v1"}
"""Of the client, in both shapes."""

_PORT = re.compile(r"([#!])(\d+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Args:
        port: of the service; where the connection goes.
        authority: the Host header: a form of the service's name, with that port or without.
        script: what the upstream does, see `echo`.
        body: size in bytes; None: no body.
    """

    method: str
    port: int
    authority: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    script: str = "200"
    body: int | None = None

    def header(self, name: str) -> str | None:
        """The last value of a header; None: absent."""
        return {key.lower(): value for key, value in self.headers}.get(name)

    @property
    def orders(self) -> bool:
        """Whether the caller orders time-outs or retries."""
        return any(name.lower() in CONSUMED for name, _ in self.headers)

    @property
    def host(self) -> str:
        """Host and port as in a URL."""
        name, colon, port = self.authority.rpartition(":")
        return f"{name if colon and port.isdigit() else self.authority}:{self.port}"


@dataclass(frozen=True, slots=True)
class Case:
    """Objects, and requests that are judged under them."""

    objects: tuple[Json, ...]
    requests: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A case's place in a batch.

    Args:
        slot: part of its services' names, unique as long as the control plane lives.
        alive, dead: ports of endpoints.
    """

    slot: str
    alive: tuple[int, ...]
    dead: tuple[int, ...]

    def named(self, text: str) -> str:
        """Text with the names of this place."""
        for token in "ab":
            text = text.replace(f"@{token}", f"{token}{self.slot}").replace(f"@{token.upper()}", f"{token.upper()}{self.slot}")
        return text

    def objects(self, case: Case) -> list[Json]:
        """The case's objects as an operator would write them."""
        return [self._ported(json.loads(self.named(json.dumps(item)))) for item in case.objects]

    def _ported(self, item: Json) -> Json:
        if item["kind"] == "ServiceEntry":
            for endpoint in item["spec"].get("endpoints", ()):
                endpoint["ports"] = {name: self._port(port) for name, port in endpoint.get("ports", {}).items()}
        return item

    def _port(self, token: str) -> int:
        found = _PORT.fullmatch(token)
        assert found, token
        ports = self.alive if found[1] == "#" else self.dead
        return ports[int(found[2])]

    def request(self, asked: Asked) -> Asked:
        """A request as it is sent."""
        return Asked(
            asked.method,
            asked.port,
            self.named(asked.authority),
            asked.path,
            tuple((name, self.named(value)) for name, value in asked.headers),
            asked.script,
            asked.body,
        )


def document(kind: str, name: str, spec: Mapping[str, Any]) -> Json:
    """An Istio object."""
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": dict(spec),
    }
