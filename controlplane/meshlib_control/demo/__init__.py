"""`meshlib demo bookinfo`: a control plane and Bookinfo's six processes, until Ctrl-C.

It uses the public commands only (`controlplane`, `token create`, `run`), so what it does can be done by hand, and
docs/tutorial.md does.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from meshlib_control.demo import bookinfo
from meshlib_control.demo.processes import Group

MESHLIB = (sys.executable, "-m", "meshlib_control.cli")
START_LIMIT = 60.0  # seconds until everything must be up
POLL = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Where the demonstration listens and keeps its files.

    Args:
        host: address of every listener.
        port: of the page.
        xds_port, api_port: of the control plane.
        home: as MESHLIB_HOME; the demonstration uses `demo/bookinfo` in it and starts empty each time.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 9080
    xds_port: int = 15012
    api_port: int = 15014

    @property
    def folder(self) -> Path:
        """Everything the demonstration writes, but for the pointer `current.json`."""
        return self.home / "demo" / "bookinfo"

    @property
    def page(self) -> str:
        """Where a person looks."""
        return f"http://{self.host}:{self.port}/productpage"


class DemoError(Exception):
    """The demonstration cannot start or did not last; the text says why and what to do."""


def main(options: DemoOptions) -> int:
    """Runs until Ctrl-C or SIGTERM. Returns the exit code: 0 if a person stopped it, 1 if it failed."""
    with _stop_on_signals():
        group = Group(options.folder / "logs")
        try:
            _check_ports(options)
            shutil.rmtree(options.folder, ignore_errors=True)
            group = Group(options.folder / "logs")
            _start(options, group)
            print(_welcome(options), flush=True)
            _watch(group)
        except DemoError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nStopping.", flush=True)
            return 0
        finally:
            with _undisturbed():
                group.stop()


def _check_ports(options: DemoOptions) -> None:
    wanted = {"--port": options.port, "--xds-port": options.xds_port, "--api-port": options.api_port}
    for option, port in wanted.items():
        with socket.socket() as probe:
            # As servers bind: a connection of a former run that lingers in TIME_WAIT does not take the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((options.host, port))
            except OSError as error:
                hint = f", or: make bookinfo PORT={port + 100}" if option == "--port" else ""
                raise DemoError(
                    f"port {port} of {options.host} is taken ({error.strerror}).\n"
                    f"Try: meshlib demo bookinfo {option} {port + 100}{hint}"
                ) from error


def _start(options: DemoOptions, group: Group) -> None:
    give_up = time.monotonic() + START_LIMIT
    data = options.folder / "controlplane"
    xds, api = f"{options.host}:{options.xds_port}", f"{options.host}:{options.api_port}"
    env = dict(os.environ) | {"MESHLIB_HOME": str(options.home)}
    print("Starting the control plane ...", flush=True)
    group.start(
        "controlplane", (*MESHLIB, "controlplane", "--data", str(data), "--xds-address", xds, "--api-address", api), env
    )
    _wait(group, give_up, "the control plane", lambda: _answers(f"http://{api}/ready"))
    print("Starting productpage, details, reviews v1, v2, v3 and ratings ...", flush=True)
    programs = list(bookinfo.programs(options.host, options.port))
    tokens = {account: _token(options, env, account) for account in sorted({program.account for program in programs})}
    for program in programs:
        command, program_env = _joined(program, tokens[program.account], options, env)
        group.start(program.name, command, program_env, bookinfo.folder())
    _wait(group, give_up, "the page", lambda: _page_is_whole(options))


def _token(options: DemoOptions, env: Mapping[str, str], account: str) -> Path:
    command = (*MESHLIB, "token", "create", "--service-account", account)
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise DemoError(f"no token for {account}: {result.stderr.strip()}\nTry: {shlex.join(command)}")
    path = options.folder / "tokens" / account
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(result.stdout)
    return path


def _joined(
    program: bookinfo.Program, token: Path, options: DemoOptions, env: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The `meshlib run` command line of a program, and its environment."""
    command = (
        *MESHLIB,
        "run",
        *("--service", program.service, "--port", "9080", "--label", f"version={program.version}"),
        *("--instance", program.instance, "--token-file", str(token)),
        *("--control-plane", f"{options.host}:{options.xds_port}"),
        *("--root-cert", str(options.folder / "controlplane" / "root-cert.pem")),
        *("--forward-header", "end-user", "--"),
        *program.command,
    )
    return command, dict(env) | program.env


def _wait(group: Group, give_up: float, what: str, done: Callable[[], bool]) -> None:
    while not done():
        _fail_if_ended(group)
        if time.monotonic() > give_up:
            raise DemoError(
                f"{what} did not come up within {START_LIMIT:.0f} s.\nTry: look at {group.log('controlplane').parent}"
            )
        time.sleep(POLL)


def _fail_if_ended(group: Group) -> None:
    name = group.ended()
    if name is None:
        return
    tail = "\n".join(group.log(name).read_text(errors="replace").splitlines()[-15:])
    raise DemoError(f"{name} has ended. Its last words:\n{tail}\nTry: look at {group.log(name)}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310  always http to our own listener
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _page_is_whole(options: DemoOptions) -> bool:
    """Whether all three versions of reviews, details and ratings answer through the mesh."""
    api = f"http://{options.host}:{options.port}/api/v1/products/0"
    return _registered(options) >= 6 and all(_answers(f"{api}{what}") for what in ("", "/reviews", "/ratings"))


def _registered(options: DemoOptions) -> int:
    try:
        current = json.loads((options.home / "current.json").read_text())
        token = Path(current["token_file"]).read_text().strip()
        request = urllib.request.Request(f"{current['api']}/v1/proxies", headers={"Authorization": f"Bearer {token}"})  # noqa: S310  our own API
        with urllib.request.urlopen(request, timeout=2) as response:  # noqa: S310  as above
            return len(json.loads(response.read())["items"])
    except (OSError, ValueError, KeyError):
        return 0


def _watch(group: Group) -> NoReturn:
    while True:
        _fail_if_ended(group)
        time.sleep(POLL)


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) end the demonstration as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """An impatient second Ctrl-C must not leave half of the processes behind; ending takes a few seconds at most."""
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _welcome(options: DemoOptions) -> str:
    meshlib = _command_name()
    networking = os.path.relpath(bookinfo.folder() / "networking")
    home = "" if options.home == Path("~/.meshlib").expanduser() else f"MESHLIB_HOME={shlex.quote(str(options.home))} "
    return f"""
Bookinfo is running: {options.page}
Reload it: the stars come and go, because three versions of reviews take turns.

Three things to try in another terminal:

  1. Nobody sees stars:
     {home}{meshlib} apply -f {networking}/destination-rule-all.yaml -f {networking}/virtual-service-all-v1.yaml

  2. Sign in as jason (any password) and see black ones:
     {home}{meshlib} apply -f {networking}/virtual-service-reviews-test-v2.yaml

  3. Which line of which file decides that?
     {home}{meshlib} explain GET http://reviews:9080/reviews/0 -H 'end-user: jason' --from productpage

What the services write: {options.folder / "logs"}
Ctrl-C stops everything.
"""


def _command_name() -> str:
    """`meshlib` if the shell would find this very installation under that name, else its path."""
    ours = Path(sys.executable).with_name("meshlib")
    found = shutil.which("meshlib")
    return "meshlib" if found and Path(found) == ours else os.path.relpath(ours)
