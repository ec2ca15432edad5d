"""Addresses to listen on, and what to say when one is taken."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import CannotStart, WrongOption


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to listen on; port 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or (_is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback)


def parse_address(text: str, option: str) -> Address:
    """`127.0.0.1:15012` or `[::1]:15012` as an Address.

    Args:
        option: which option said so, for the error.

    Raises:
        WrongOption: it is not of that form.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise WrongOption(f"{option} {text!r} is no address", f"write HOST:PORT, for example {option} 127.0.0.1:15012")
    return Address(host, int(port))


def listen(address: Address, option: str) -> socket.socket:
    """A listening TCP socket.

    Args:
        option: the option that changes the address, for the error.

    Raises:
        CannotStart: the port is taken, or not allowed; says by whom and what to do.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise cannot_listen(address, option, error) from error
    listener.setblocking(False)
    return listener


def cannot_listen(address: Address, option: str, error: OSError) -> CannotStart:
    """The error for an address that cannot be listened on."""
    other = f"{option} {Address(address.host, address.port + 100 if address.port < 65436 else 0)}"
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(address.port)
        return CannotStart(
            f"port {address.port} of {address.host} is taken{f' by {holder}' if holder else ''}",
            f"stop that, or choose another port: {other}",
        )
    return CannotStart(f"cannot listen on {address}: {error.strerror or error}", f"choose another address: {option} HOST:PORT")


def probe(address: Address, option: str) -> None:
    """Return if the address is free.

    For gRPC, which says "Failed to bind" only; between this look and its own bind another process may still come.

    Raises:
        CannotStart: as `listen`.
    """
    if address.port:
        listen(address, option).close()


def holder_of(port: int) -> str:
    """Which process listens on a TCP port, as `gunicorn (pid 4711)`; empty if that cannot be seen.

    Linux only, and only for processes of the same user (or as root).
    """
    inodes = set(_listening_inodes(port))
    if not inodes:
        return ""
    for folder in Path("/proc").glob("[0-9]*"):
        if inodes & set(_sockets_of(folder)):
            return f"{_name_of(folder)} (pid {folder.name})"
    return ""


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A: LISTEN
                    yield f"socket:[{fields[9]}]"


def _sockets_of(process: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):  # another user's, or gone meanwhile
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(link)


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
