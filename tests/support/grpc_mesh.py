"""A control plane with gRPC services and clients as processes, for tests that compare kinds of clients."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from meshlib_control.serve import ControlPlane
from tests.support.cluster import eventually, free_port
from tests.support.control import admin_token, in_thread

FOLDER = Path(__file__).parent
HOST = "127.0.0.1"
JSON = dict[str, Any]


class Caller:
    """A client process."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def call(self, method: str = "/test.Reviews/Say", count: int = 1, timeout: float = 10, **metadata: str) -> list[JSON]:
        """What came of `count` calls, one after the other. `end_user` is sent as `end-user`."""
        headers = {name.replace("_", "-"): value for name, value in metadata.items()}
        order = {"method": method, "metadata": headers, "timeout": timeout, "count": count}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the client ended:\n{self.log()}"
        found: list[JSON] = json.loads(line)
        return found

    def one(self, method: str = "/test.Reviews/Say", timeout: float = 10, **metadata: str) -> JSON:
        """What came of one call."""
        return self.call(method, timeout=timeout, **metadata)[0]

    def log(self) -> str:
        """The end of what it wrote to stderr."""
        return self._log.read_text(errors="replace")[-4000:]


class GrpcMesh:
    """A running control plane, and processes that joined it."""

    def __init__(self, plane: ControlPlane, folder: Path, closing: contextlib.ExitStack) -> None:
        self.plane = plane
        self.folder = folder
        self._closing = closing
        self._api = closing.enter_context(
            httpx.Client(
                base_url=plane.current.api, headers={"authorization": f"Bearer {admin_token(plane)}"}, trust_env=False
            )
        )
        self._processes: dict[str, subprocess.Popen[str]] = {}

    # The control plane

    def apply(self, text: str) -> None:
        """Apply YAML, and wait until every client has answered what follows from it."""
        answer = self._api.post("/v1/apply", json={"documents": text})
        assert answer.status_code == 200, answer.text
        self.settle()

    def reset(self) -> None:
        """Delete every object."""
        for item in self._api.get("/v1/objects").json()["items"]:
            metadata = item["metadata"]
            self._api.delete(f"/v1/objects/{item['kind']}/{metadata['namespace']}/{metadata['name']}").raise_for_status()
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is outstanding."""
        time.sleep(0.3)
        eventually(lambda: all(row["status"] != "pending" for row in self.proxies()), "everybody answered")

    def proxies(self) -> list[JSON]:
        """Rows of `ps`."""
        items: list[JSON] = self._api.get("/v1/proxies").json()["items"]
        return items

    def rejected(self) -> list[JSON]:
        """What any client has rejected."""
        return [error | {"client": row["name"], "kind": row["kind"]} for row in self.proxies() for error in row["errors"]]

    def rotate(self) -> None:
        """Begin to replace the root."""
        self._api.post("/v1/ca/rotate", json={}).raise_for_status()

    def authority(self) -> JSON:
        """How far that is."""
        found: JSON = self._api.get("/v1/ca").json()
        return found

    def token(self, account: str, namespace: str = "default") -> str:
        """A join token."""
        body = {"serviceAccount": account, "namespace": namespace}
        return str(self._api.post("/v1/tokens", json=body).json()["token"])

    # Processes

    def environment(self, name: str, account: str, **settings: str) -> dict[str, str]:
        """The environment of a member."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MESHLIB_", "GRPC_"))}
        return inherited | {
            "MESHLIB_HOME": str(self.folder / "home" / name),
            "MESHLIB_INSTANCE": name,
            "MESHLIB_TOKEN": self.token(account),
            "MESHLIB_CONTROL_PLANE": self.plane.current.xds,
            "MESHLIB_CONTROL_PLANE_MTLS": self.plane.current.xds_mtls,
            "MESHLIB_ROOT_CERT": self.plane.current.root_cert,
            **settings,
        }

    def start(self, name: str, program: str, *arguments: str, env: Mapping[str, str]) -> tuple[subprocess.Popen[str], Path]:
        """Start a program of this folder; its stderr goes to a file."""
        log = self.folder / f"{name}.log"
        stderr: IO[str] = self._closing.enter_context(log.open("w"))
        process = subprocess.Popen(
            [sys.executable, str(FOLDER / program), *arguments],
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=FOLDER.parents[1],
        )
        self._processes[name] = process
        self._closing.callback(self.stop, name)
        return process, log

    def stop(self, name: str) -> None:
        """End a process."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.communicate()

    def service(self, name: str, version: str, engine: str = "native", service: str = "reviews", **settings: str) -> int:
        """A gRPC service on port 9080 of the mesh; returns the port where it listens, once it does."""
        port = free_port()
        own = {
            "MESHLIB_SERVICE": service,
            "MESHLIB_PORT": "9080",
            "MESHLIB_PROTOCOL": "grpc",
            "MESHLIB_LABELS": f"app={service},version={version}",
        }
        env = self.environment(name, f"bookinfo-{service}", **own, **settings)
        process, log = self.start(name, "grpc_service.py", engine, f"{HOST}:{port}", env=env)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n", log.read_text()
        eventually(lambda: any(row["name"] == name for row in self.proxies()), f"{name} registered")
        return port

    def caller(self, name: str, engine: str, mode: str = "sync", target: str = "reviews:9080", **settings: str) -> Caller:
        """A client process."""
        return Caller(
            *self.start(name, "grpc_caller.py", engine, mode, target, env=self.environment(name, "client", **settings))
        )


@contextmanager
def grpc_mesh(folder: Path, **changes: Any) -> Iterator[GrpcMesh]:
    """A control plane without members; everything ends with the block."""
    with in_thread(folder, **changes) as plane, contextlib.ExitStack() as closing:
        yield GrpcMesh(plane, folder, closing)
