"""analyze, ps, explain, token: commands that look and tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest

from meshlib.config.messages import message, type_url
from meshlib_control.serve import ControlPlane
from meshlib_control.tokens import open_issuer
from tests.support.control import REVIEWS_V1, SUBSETS, TYPO

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
JASON = REVIEWS_V1.replace("  - route:", "  - match:\n    - headers: {end-user: {exact: jason}}\n    timeout: 2s\n    route:")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "reviews.yaml").write_text(REVIEWS_V1)
    (tmp_path / "subsets.yaml").write_text(SUBSETS)
    (tmp_path / "jason.yaml").write_text(JASON)
    (tmp_path / "wrong.yaml").write_text(TYPO)
    return tmp_path


@pytest.fixture
def service(plane: ControlPlane, meshlib) -> Iterator[None]:
    """An instance of reviews v1, as its xDS stream describes it."""
    token = meshlib("token", "create", "--service-account", "bookinfo-reviews").out.strip()
    root = Path(plane.current.root_cert).read_bytes()
    request = message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
        type_url=type_url("envoy.config.cluster.v3.Cluster"), resource_names_subscribe=["none"]
    )
    request.node.id = "library~127.0.0.1~reviews-v1-abcde.default~default.svc.cluster.local"
    request.node.user_agent_name, request.node.user_agent_version = "meshlib", "0.1.0"
    request.node.metadata.update(
        {
            "WORKLOAD_NAME": "reviews-v1",
            "LABELS": {"version": "v1"},
            "MESHLIB_SERVICES": [{"service": "reviews", "port": 9080, "target_port": 39080, "protocol": "http"}],
        }
    )
    requests: SimpleQueue[object] = SimpleQueue()
    requests.put(request)
    with grpc.secure_channel(plane.current.xds, grpc.ssl_channel_credentials(root)) as channel:
        call = channel.stream_stream(ADS, request_serializer=lambda value: value.SerializeToString())
        stream = call(iter(requests.get, None), metadata=(("authorization", f"Bearer {token}"),))
        next(stream)
        yield
        requests.put(None)
        stream.cancel()


def test_analyze_needs_no_control_plane_for_files(meshlib, files):
    """Error lines in istioctl's form, exit code 79."""
    result = meshlib("analyze", "reviews.yaml")
    assert result.code == 79
    assert "Error [IST0101] (VirtualService default/reviews reviews.yaml:" in result.out


def test_analyze_of_good_files_is_silent_on_stdout(meshlib, files, monkeypatch):
    """Exit code 0, with a word on stderr."""
    (files / "entry.yaml").write_text(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: reviews}\nspec:\n"
        "  hosts: [reviews.example.com]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n"
    )
    result = meshlib("analyze", "-f", "entry.yaml")
    assert (result.code, result.out, result.err) == (0, "", "No issues found.\n")


def test_the_threshold_decides_about_the_exit_code_not_about_the_output(meshlib, files):
    """As istioctl: what is shown stays the same."""
    (files / "gateway.yaml").write_text(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: a}\nspec: {}\n"
    )
    strict = meshlib("analyze", "gateway.yaml", "--failure-threshold", "warning")
    loose = meshlib("analyze", "gateway.yaml")
    assert (strict.code, loose.code) == (79, 0)
    assert strict.out == loose.out != ""


def test_analyze_of_what_cannot_be_read_is_bad_input(meshlib, files):
    """65: there is nothing to judge."""
    result = meshlib("analyze", "wrong.yaml")
    assert result.code == 65
    assert "wrong.yaml:12" in result.err
    assert result.err.splitlines()[-1].startswith("Try: ")


def test_analyze_looks_at_the_running_mesh_without_files(meshlib, files, plane):
    """What was applied, with what is registered."""
    meshlib("apply", "-f", "reviews.yaml")
    result = meshlib("analyze", "-o", "json")
    data = json.loads(result.out)
    assert (result.code, data["apiVersion"], data["kind"]) == (79, "cli.meshlib.dev/v1", "Analysis")
    assert "IST0101" in {finding["code"] for finding in data["findings"]}


def test_ps_of_an_empty_mesh_says_how_to_join(meshlib, plane):
    """Not an error."""
    result = meshlib("ps")
    assert (result.code, result.out) == (0, "")
    assert "meshlib run" in result.err


@pytest.mark.usefixtures("service")
def test_ps_shows_who_is_connected_within_eighty_columns(meshlib):
    """Name, service, client, state (it has not acknowledged yet), certificate, account."""
    header, row = meshlib("ps").out.splitlines()
    assert header.split() == ["NAME", "SERVICE", "CLIENT", "STATUS", "CERT", "ACCOUNT"]
    assert row.split() == ["reviews-v1-abcde", "reviews", "0.1.0", "pending", "-", "bookinfo-reviews"]
    assert max(len(header), len(row)) <= 80


@pytest.mark.usefixtures("service")
def test_explain_tells_route_subset_endpoint_and_the_lines_that_said_so(meshlib, files):
    """From the very resources that the client gets."""
    meshlib("apply", "-f", "jason.yaml", "-f", "subsets.yaml")
    text = meshlib("explain", "get", "http://reviews:9080/reviews/0", "-H", "End-User: jason", "--from", "reviews").out
    assert "reviews.default.svc.cluster.local:9080" in text
    assert "by VirtualService default/reviews, jason.yaml:9" in text
    assert "subset v1" in text
    assert "by DestinationRule default/reviews, subsets.yaml:8" in text
    assert "reviews-v1 127.0.0.1:39080 (mutual TLS)" in text
    assert "timeout    2 s" in text
    assert "retries    2" in text


@pytest.mark.usefixtures("service")
def test_explain_tells_why_no_route_matches(meshlib, files):
    """The condition that failed, with what the request had."""
    meshlib("apply", "-f", "jason.yaml", "-f", "subsets.yaml")
    text = meshlib("explain", "GET", "reviews:9080").out
    assert "none matches: 404 NR" in text
    assert "end-user must be exactly 'jason', it is absent" in text


@pytest.mark.usefixtures("service")
def test_explain_tells_that_a_subset_is_missing(meshlib, files):
    """NC, before a request finds out."""
    meshlib("apply", "-f", "reviews.yaml")
    text = meshlib("explain", "GET", "http://reviews:9080/", "--from", "productpage").out
    assert "NC: the cluster does not exist" in text
    assert "productpage in namespace default (not connected; assumed)" in text


@pytest.mark.usefixtures("service")
def test_explain_tells_who_refuses_and_what_came_closest(meshlib, tmp_path):
    """Policy, rule and line; not without knowing who asks."""
    allowing = REFUSING.replace("DENY", "ALLOW").replace("notPrincipals", "principals")
    (tmp_path / "one.yaml").write_text(allowing)
    meshlib("apply", "-f", "one.yaml")
    question = ("explain", "GET", "http://reviews:9080/")
    refused = meshlib(*question, "--from", "ratings").out
    assert "access     deny by reviews-v1-abcde: RBAC: access denied, matched policy none; closest is policy" in refused
    assert "ns[default]-policy[nobody]-rule[0]: the peer must be" in refused
    assert "by AuthorizationPolicy default/nobody, one.yaml:7" in refused
    assert "access     allow by reviews-v1-abcde" in meshlib(*question, "--from", "productpage").out
    assert "access" not in meshlib(*question).out


REFUSING = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec:
  action: DENY
  rules:
  - from: [{source: {notPrincipals: [cluster.local/ns/default/sa/productpage]}}]
"""


@pytest.mark.usefixtures("service")
def test_authz_check_tells_who_may_and_the_line_that_says_so(meshlib, tmp_path):
    """The exit code is the answer for scripts."""
    (tmp_path / "nobody.yaml").write_text(REFUSING)
    meshlib("apply", "-f", "nobody.yaml")
    question = ("authz", "check", "GET", "http://reviews:9080/reviews/0")
    denied = meshlib(*question, "--from", "ratings")
    assert (denied.code, denied.out.splitlines()[0].split()[-1]) == (79, "spiffe://cluster.local/ns/default/sa/ratings")
    assert "deny  reviews-v1-abcde (PERMISSIVE)" in denied.out
    assert "by AuthorizationPolicy default/nobody spec.rules[0], nobody.yaml:7" in denied.out
    allowed = meshlib(*question, "--from", "productpage", "-o", "json")
    assert (allowed.code, [one["decision"] for one in json.loads(allowed.out)["answers"]]) == (0, ["allow"])
    nobody = meshlib("authz", "check", "GET", "http://reviews:1/")
    assert (nobody.code, nobody.err) == (65, "Error: nobody serves http://reviews:1/\nTry: reviews.default:9080\n")


def test_explain_of_a_stranger_says_that_it_is_not_in_the_mesh(meshlib, plane):
    """As the library treats it: passed through."""
    result = meshlib("explain", "GET", "http://example.com/", "-o", "json")
    data = json.loads(result.out)
    assert (data["kind"], data["inMesh"]) == ("Explanation", False)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("explain",), 64, "method"),
        (("explain", "GET", "http://a", "-H", "no header"), 64, "'no header' is no header"),
        (("explain", "GET", "ftp://reviews"), 65, "http://reviews:9080"),
        (("token", "create"), 64, "--service-account"),
        (("token", "create", "--service-account", "A B"), 65, "no service account name"),
        (("token", "create", "--service-account", "a", "--ttl", "soon"), 64, "'soon' is no time"),
        (("token", "create", "--service-account", "a", "--ttl", "9999d"), 65, "365d"),
        (("token",), 64, "command"),
        (("analyze", "--failure-threshold", "bad"), 64, "bad"),
        (("ps", "extra"), 64, "extra"),
    ],
)
def test_a_wrong_input_has_its_exit_code_and_ends_with_advice(meshlib, plane, arguments, code, words):
    """Every error ends with the next thing to do."""
    result = meshlib(*arguments)
    assert result.code == code
    assert words in result.err
    assert result.err.splitlines()[-1].startswith("Try: ")


def test_a_token_is_printed_alone(meshlib, plane, tmp_path):
    """So that `> reviews.token` is all it takes."""
    result = meshlib("token", "create", "--service-account", "bookinfo-reviews", "-n", "shop", "--ttl", "1h30m")
    account = open_issuer(tmp_path / "data").verify(result.out.strip(), datetime.now(UTC))
    assert (account.namespace, account.name) == ("shop", "bookinfo-reviews")
    assert timedelta(minutes=89) < account.expires - datetime.now(UTC) <= timedelta(minutes=90)
    assert result.out.count("\n") == 1


@pytest.mark.parametrize("command", [("get", "vs"), ("ps",), ("analyze",), ("explain", "GET", "a"), ("delete", "vs", "a")])
def test_without_a_control_plane_every_command_says_how_to_start_one(meshlib, command):
    """Exit code 69."""
    result = meshlib(*command, "--api", "http://127.0.0.1:9")
    assert (result.code, result.out) == (69, "")
    assert "cannot reach the control plane at http://127.0.0.1:9" in result.err
    assert "meshlib controlplane" in result.err.splitlines()[-1]


def test_a_wrong_admin_token_says_where_the_right_one_is(meshlib, plane, monkeypatch):
    """Exit code 1."""
    monkeypatch.setenv("MESHLIB_ADMIN_TOKEN", "wrong")
    result = meshlib("ps")
    assert result.code == 1
    assert "MESHLIB_ADMIN_TOKEN_FILE" in result.err.splitlines()[-1]


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:b", "http://a:0"])
def test_an_api_that_is_no_url_is_wrong_usage(meshlib, url):
    """With an example."""
    result = meshlib("ps", "--api", url)
    assert result.code == 64
    assert "--api http://127.0.0.1:15014" in result.err


def test_the_environment_may_name_the_api(meshlib, plane, monkeypatch):
    """MESHLIB_API, before current.json."""
    monkeypatch.setenv("MESHLIB_API", "127.0.0.1:9")
    assert meshlib("ps").code == 69
    monkeypatch.setenv("MESHLIB_API", f"127.0.0.1:{plane.api.port}")
    assert meshlib("ps").code == 0


def test_a_broken_current_json_is_named(meshlib, tmp_path):
    """With the command that removes it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/current.json").write_text("{")
    result = meshlib("ps")
    assert result.code == 1
    assert "current.json is broken" in result.err


@pytest.mark.usefixtures("plane")
def test_a_token_that_is_nowhere_is_no_wrong_token(meshlib, monkeypatch, tmp_path):
    """Found through neither the environment nor the control plane's folder; a file that was named must be there."""
    api = json.loads((tmp_path / "home" / "current.json").read_text())["api"]
    monkeypatch.setenv("MESHLIB_HOME", str(tmp_path / "elsewhere"))
    result = meshlib("ps", "--api", api)
    assert (result.code, "asks for its admin token, and none was found here" in result.err) == (1, True)
    monkeypatch.setenv("MESHLIB_ADMIN_TOKEN_FILE", str(tmp_path / "nothere"))
    result = meshlib("ps", "--api", api)
    assert (result.code, "cannot read the token" in result.err) == (1, True)


@pytest.mark.usefixtures("plane")
def test_a_life_that_no_token_has(meshlib):
    """In the words of the command line, and the advice is about this command."""
    result = meshlib("token", "create", "--service-account", "x", "--ttl", "9999d")
    assert result.code == 65
    assert result.err.splitlines() == [
        "Error: a token lives between 1s and 365d, not 863913600s. Write for example 24h",
        "Try: the command's --help",
    ]
