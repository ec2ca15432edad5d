"""WorkloadEntry and WorkloadGroup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from meshlib_control.kinds import WorkloadEntry, WorkloadGroup
from meshlib_control.mistakes import Mistake
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats
from meshlib_control.validate.common import labels, told

_PORT_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a WorkloadEntry."""
    yield from entry(found.spec, "spec", names_allowed=True)


def entry(spec: WorkloadEntry, path: str, *, names_allowed: bool) -> Iterator[Mistake]:
    """An endpoint: an IP address, a Unix socket, or, if allowed, a DNS name."""
    if not spec.address and not spec.network:
        yield Mistake(f"{path}.address", "Address is required")
    yield from _address(spec, path, names_allowed)
    yield from _ports(spec, path)
    yield from labels(spec.labels, f"{path}.labels")


def _address(spec: WorkloadEntry, path: str, names_allowed: bool) -> Iterator[Mistake]:
    address = spec.address
    if address.startswith("unix://"):
        yield from told(f"{path}.address", formats.unix_address(address.removeprefix("unix://")))
        if spec.ports:
            yield Mistake(f"{path}.ports", "UDS may not include ports")
    elif address and not formats.is_ip(address):
        if not names_allowed:
            yield Mistake(f"{path}.address", f'"{address}" is not an IP address', "use resolution: DNS for host names")
        elif formats.fqdn(address):
            yield Mistake(f"{path}.address", f'"{address}" is neither an IP address nor a host name')


def _ports(spec: WorkloadEntry, path: str) -> Iterator[Mistake]:
    for name in spec.ports:
        if len(name) > 62 or not _PORT_NAME.fullmatch(name):
            yield Mistake(f"{path}.ports", f'Invalid value: "{name}": port name must be valid')


def check_group(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a WorkloadGroup; the address of its template is filled in later."""
    spec: WorkloadGroup = found.spec
    yield from _address(spec.template, "spec.template", names_allowed=True)
    yield from _ports(spec.template, "spec.template")
    if spec.metadata is not None:
        yield from labels(spec.metadata.labels, "spec.metadata.labels")
    probe = spec.probe
    if probe is None:
        return
    if probe.http_get is not None and probe.http_get.scheme not in {"", "HTTP", "HTTPS"}:
        yield Mistake("spec.probe.httpGet.scheme", "scheme must be one of [HTTP, HTTPS]")
    if probe.command is not None and not probe.command.command:
        yield Mistake("spec.probe.exec.command", "Required value")
    if not (probe.http_get or probe.tcp_socket or probe.command or probe.grpc):
        yield Mistake("spec.probe", "a probe needs httpGet, tcpSocket, exec or grpc")
