"""Istio's tasks about tokens of users: authentication policy, claim to header, authorization for JWT; without a gateway."""

from __future__ import annotations

import functools
import http.server
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.tokens import forge
from tests.support.cluster import CONFORMANCE, HOST, Cluster, eventually, free_port

pytestmark = pytest.mark.e2e

PROGRAMS = Path(__file__).parent / "programs"
SAMPLES = CONFORMANCE / "istio" / "security" / "tools" / "jwt" / "samples"
ISSUER = "testing@secure.istio.io"
SERVERS = {
    "asgi": ("-m", "uvicorn", "whoami:asgi", "--log-level", "warning", "--port", "{port}"),
    "wsgi": ("-m", "gunicorn", "whoami:wsgi", "--log-level", "warning", "-b", HOST + ":{port}"),
}


def object_(kind: str, **spec: Any) -> str:
    """A policy for httpbin."""
    whole = {"selector": {"matchLabels": {"app": "httpbin"}}, **spec}
    head = {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": "httpbin", "namespace": "foo"}}
    return json.dumps({**head, "spec": whole})


@dataclass(frozen=True)
class Httpbin:
    """httpbin in the mesh, asked by somebody outside of it."""

    cluster: Cluster
    port: int

    def get(self, path: str = "/headers", token: str = "") -> httpx.Response:
        """What it answers; with a token, if there is one."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"http://{HOST}:{self.port}{path}", headers=headers, trust_env=False)

    def status(self, token: str = "", path: str = "/headers") -> int:
        """Only the status."""
        return self.get(path, token).status_code


@pytest.fixture(scope="module", params=sorted(SERVERS))
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Httpbin]:
    """A control plane and one service."""
    cluster = Cluster(tmp_path_factory.mktemp("tokens"))
    port = free_port()
    command = (sys.executable, *(part.format(port=port) for part in SERVERS[request.param]))
    try:
        cluster.start_control_plane()
        cluster.join(
            "httpbin", "httpbin", command, "--port", "8000", "--label", "app=httpbin", namespace="foo", folder=PROGRAMS
        )
        cluster.wait_for("httpbin")
        yield Httpbin(cluster, port)
    finally:
        cluster.stop()


@pytest.fixture
def httpbin(running: Httpbin) -> Httpbin:
    """Without any policy."""
    running.cluster.reset()
    return running


@dataclass(frozen=True)
class Samples:
    """Istio's sample tokens, and the keys that prove them."""

    keys: str
    demo: str
    groups: str

    def rule(self, **fields: Any) -> dict[str, Any]:
        """The rule of Istio's tasks, with its keys inline."""
        return {"issuer": ISSUER, "jwks": self.keys, **fields}


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Istio's own."""
    if not SAMPLES.exists():
        pytest.skip("no conformance data")
    return Samples(*((SAMPLES / name).read_text().strip() for name in ("jwks.json", "demo.jwt", "groups-scope.jwt")))


def test_b17_end_user_authentication(httpbin: Httpbin, samples: Samples) -> None:
    """A bad token is refused, none is not; then one is needed; then one is needed for /headers only."""
    assert httpbin.status("deadbeef") == 200
    httpbin.cluster.apply_text(object_("RequestAuthentication", jwtRules=[samples.rule()]))
    refused = httpbin.get(token="deadbeef")
    assert (refused.status_code, refused.text) == (
        401,
        "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
    )
    assert refused.headers["www-authenticate"].endswith('/headers", error="invalid_token"')
    assert (httpbin.status(), httpbin.status(samples.demo)) == (200, 200)

    nobody = [{"from": [{"source": {"notRequestPrincipals": ["*"]}}]}]
    httpbin.cluster.apply_text(object_("AuthorizationPolicy", action="DENY", rules=nobody))
    assert (httpbin.status(), httpbin.status(samples.demo), httpbin.status("deadbeef")) == (403, 200, 401)

    only = [{**nobody[0], "to": [{"operation": {"paths": ["/headers"]}}]}]
    httpbin.cluster.apply_text(object_("AuthorizationPolicy", action="DENY", rules=only))
    assert (httpbin.status(path="/headers"), httpbin.status(path="/ip")) == (403, 200)


def test_a_token_holds_a_minute_longer_and_no_more(httpbin: Httpbin) -> None:
    """One that ended 57 s ago is good, and is not a few seconds later, though it is remembered."""
    pair = forge.pairs()["ec-ES256"]
    rule = {"issuer": "me", "jwks": json.dumps({"keys": [pair.public]})}
    httpbin.cluster.apply_text(object_("RequestAuthentication", jwtRules=[rule]))
    token = forge.token({"alg": "ES256"}, {"iss": "me", "exp": int(time.time()) - 57}, pair.sign["ES256"])
    assert httpbin.status(token) == 200
    eventually(lambda: httpbin.status(token) == 401, "the token is over", 10)
    assert httpbin.get(token=token).text == "Jwt is expired"


def test_b19_claims_become_headers(running: Httpbin, httpbin: Httpbin, samples: Samples) -> None:
    """The application sees the claim, in its header and by `meshlib.claims`, and not the token; nobody can forge it."""
    rule = samples.rule(outputClaimToHeaders=[{"header": "x-jwt-claim-foo", "claim": "foo"}])
    httpbin.cluster.apply_text(object_("RequestAuthentication", jwtRules=[rule]))
    told = httpbin.get(token=samples.demo).json()
    seen = told["headers"]
    assert seen["x-jwt-claim-foo"] == "bar"
    assert "authorization" not in seen
    assert (told["claims"]["foo"], httpbin.get().json()["claims"]) == ("bar", {})
    forged = httpx.get(f"http://{HOST}:{running.port}/headers", headers={"x-jwt-claim-foo": "bar"}, trust_env=False)
    assert "x-jwt-claim-foo" not in forged.json()["headers"]


def test_b23_authorization_with_tokens(httpbin: Httpbin, samples: Samples) -> None:
    """Who the user is, and then of which group."""
    httpbin.cluster.apply_text(object_("RequestAuthentication", jwtRules=[samples.rule()]))
    assert (httpbin.status("invalid"), httpbin.status()) == (401, 200)

    user = {"from": [{"source": {"requestPrincipals": [f"{ISSUER}/{ISSUER}"]}}]}
    httpbin.cluster.apply_text(object_("AuthorizationPolicy", rules=[user]))
    assert (httpbin.status(), httpbin.status(samples.demo)) == (403, 200)

    group = {**user, "when": [{"key": "request.auth.claims[groups]", "values": ["group1"]}]}
    httpbin.cluster.apply_text(object_("AuthorizationPolicy", rules=[group]))
    assert (httpbin.status(samples.groups), httpbin.status(samples.demo)) == (200, 403)


class Issuer(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing about it."""

    def log_message(self, *_args: Any) -> None:
        """Nothing."""


def test_the_control_plane_fetches_keys(httpbin: Httpbin, tmp_path: Path) -> None:
    """By discovery; until it has some every token is refused, and analyze says why."""
    pair = forge.pairs()["ed"]
    handler = functools.partial(Issuer, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer((HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        issuer = f"http://{HOST}:{server.server_port}"
        token = forge.token({"alg": "EdDSA"}, {"iss": issuer}, pair.sign["EdDSA"])
        httpbin.cluster.apply_text(object_("RequestAuthentication", jwtRules=[{"issuer": issuer}]))
        assert (httpbin.status(token), httpbin.status()) == (401, 200)
        told = httpbin.cluster.cli("analyze", check=False)
        assert f"the issuer {issuer} gives no keys" in told.stdout + told.stderr

        (tmp_path / ".well-known").mkdir()
        (tmp_path / ".well-known" / "openid-configuration").write_text(json.dumps({"jwks_uri": f"{issuer}/keys"}))
        (tmp_path / "keys").write_text(json.dumps({"keys": [pair.public]}))
        eventually(lambda: httpbin.status(token) == 200, "the keys are fetched", 30)
        server.shutdown()
