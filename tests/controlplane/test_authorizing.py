"""May this caller do this: asked of every instance, before a request is sent."""

from __future__ import annotations

from typing import Any

import pytest

from meshlib_control.authorizing import check_access, peer_called, served_at
from meshlib_control.explaining import BadQuestion, question
from meshlib_control.model import Registration
from tests.support.worlds import REVIEWS, server, world

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: reviews}
spec:
  selector: {matchLabels: {app: reviews, version: v2}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/productpage]}}]
    to: [{operation: {paths: ["/reviews/{*}"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: admin}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin*]}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: plain}
spec: {selector: {matchLabels: {version: v3}}, mtls: {mode: DISABLE}}
"""


def asked(url: str, caller: str = "", nodes: Any = REVIEWS, text: str = POLICY, namespace: str = "default") -> dict[str, Any]:
    """The answer of each instance."""
    peer = peer_called(caller, namespace, "cluster.local", "127.0.0.1")
    found = check_access(world(text, nodes=nodes), nodes, question("GET", url, []), peer, namespace, 0.0)
    return {one["instance"]: one for one in found}


def decisions(url: str, caller: str = "", **changes: Any) -> list[str]:
    return [one["decision"] for one in asked(url, caller, **changes).values()]


def test_every_instance_is_asked_by_the_policies_that_are_for_it() -> None:
    """Only v2 has an ALLOW."""
    assert decisions("http://reviews:9080/reviews/0", "productpage") == ["allow", "allow", "allow"]
    assert decisions("http://reviews:9080/reviews/0", "ratings") == ["allow", "deny", "allow"]
    assert decisions("http://reviews:9080/reviews/0/1", "productpage") == ["allow", "deny", "allow"]


def test_a_refusal_names_the_policy_and_its_line() -> None:
    """Or the policy that came closest, where none allows."""
    denied = asked("http://reviews.default:9080/admin/x", "productpage")["reviews-v1-7001"]
    assert (denied["policy"], denied["status"]) == ("ns[default]-policy[admin]-rule[0]", 403)
    assert (denied["origin"]["file"], denied["origin"]["line"]) == ("test.yaml", 17)
    missed = asked("http://reviews:9080/reviews/0", "ratings")["reviews-v2-7002"]
    assert "closest is policy ns[default]-policy[reviews]-rule[0]" in missed["reason"]
    assert (missed["policy"], missed["closest"]) == ("", "ns[default]-policy[reviews]-rule[0]")
    assert (missed["origin"]["file"], missed["origin"]["line"]) == ("test.yaml", 8)


def test_plain_text_is_refused_by_the_line_that_says_strict() -> None:
    """Before any policy is asked."""
    strict = (
        "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: all}, spec: {mtls: {mode: STRICT}}}"
    )
    refused = asked("http://reviews:9080/", text=strict)["reviews-v1-7001"]
    assert (refused["decision"], refused["origin"]["object"]) == ("deny", "PeerAuthentication default/all")


def test_without_a_certificate_nobody_is_known() -> None:
    """And where a port takes plain text only, nobody has one."""
    assert decisions("http://reviews:9080/reviews/0") == ["allow", "deny", "allow"]
    everybody = POLICY.replace("{app: reviews, version: v2}", "{app: reviews}")
    assert decisions("http://reviews:9080/reviews/0", "productpage", text=everybody) == ["allow", "allow", "deny"]


def test_grpcio_is_asked_what_it_can_check() -> None:
    """The template makes v2's policy allow nothing there."""
    served = (Registration("reviews", 9080, 7002, "grpc"),)
    nodes = [server(version="v2", port=7002, kind="grpc", registrations=served)]
    assert decisions("http://reviews:9080/reviews/0", "productpage", nodes=nodes) == ["deny"]


def test_nobody_answers_for_a_host_that_nobody_serves() -> None:
    """Another port, another name, another namespace."""
    for url in ("http://reviews:9081/", "http://ratings:9080/", "http://reviews.other:9080/"):
        assert asked(url) == {}
    assert asked("http://reviews:9080/", namespace="other") == {}
    assert served_at(REVIEWS, "reviews:9081") == ["reviews.default:9080"]
    assert served_at(REVIEWS, "ratings:9080") == []


@pytest.mark.parametrize(
    ("name", "proven"),
    [
        ("a", "spiffe://td/ns/home/sa/a"),
        ("other/a", "spiffe://td/ns/other/sa/a"),
        ("spiffe://x/ns/y/sa/z", "spiffe://x/ns/y/sa/z"),
        ("", ""),
    ],
)
def test_a_caller_has_a_short_or_a_full_name(name: str, proven: str) -> None:
    """The namespace is the command's unless the name has one."""
    assert peer_called(name, "home", "td", "::1").spiffe_id == proven


def test_an_address_that_is_none_is_a_bad_question() -> None:
    """Before anybody is asked."""
    with pytest.raises(BadQuestion, match="no IP address"):
        peer_called("a", "home", "td", "localhost")


@pytest.mark.parametrize("name", ["a b", "x/y/z", "spiffe://td/other", "https://td/ns/a/sa/b", "ns/"])
def test_nobody_has_a_name_that_is_none(name: str) -> None:
    """A mistyped account would be refused by every policy, and that would prove nothing."""
    with pytest.raises(BadQuestion, match="NAMESPACE/ACCOUNT"):
        peer_called(name, "home", "td", "::1")
