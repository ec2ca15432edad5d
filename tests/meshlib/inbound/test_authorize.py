"""Who may do what: the RBAC filter's conditions and answers."""

from __future__ import annotations

from typing import Any

import pytest

from meshlib.config.policy import AS_WRITTEN, EscapedSlashes, Normalization
from meshlib.errors import ConfigurationError
from meshlib.facts import DryRun, Peer, Request
from meshlib.inbound.admit import InboundPort
from meshlib.inbound.visit import Denied, Permit, Visit
from meshlib.runtime.admission import admit_sync
from tests.support.rbac import ANY, Json, rbac_filters, rules

PRODUCTPAGE = Peer("spiffe://cluster.local/ns/default/sa/productpage", "10.0.0.7:51234", "ab" * 32, "reviews")
STRANGER = Peer("", "10.0.0.8:51234")


def port(*filters: Json, normalization: Normalization = AS_WRITTEN) -> InboundPort:
    """A port that has these RBAC filters, as protobuf's JSON."""
    return InboundPort(filters=rbac_filters(*filters), normalization=normalization)


def visit(path: str = "/reviews/0", *headers: tuple[str, str], peer: Peer = PRODUCTPAGE, method: str = "GET") -> Visit:
    return Visit(Request(method, "http", "reviews:9080", path, headers), peer, "10.0.0.2:9080", peer.server_name)


def enters(permission: Json, principal: Json = ANY, asked: Visit | None = None) -> bool:
    """Whether an ALLOW policy of this one condition lets a request in."""
    answer = admit_sync(port({"rules": rules("ALLOW", p=(permission, principal))}), asked or visit())
    return isinstance(answer, Permit)


def url(**match: str) -> Json:
    return {"url_path": {"path": match}}


def header(name: str, **match: Any) -> Json:
    return {"header": {"name": name, **match}}


@pytest.mark.parametrize(
    ("permission", "holds"),
    [
        (url(exact="/reviews/0"), True),
        (url(prefix="/admin"), False),
        (header(":method", string_match={"exact": "GET"}), True),
        (header(":authority", string_match={"exact": "REVIEWS:9080", "ignore_case": True}), True),
        ({"destination_port": 9080}, True),
        ({"destination_port": 9081}, False),
        ({"destination_port_range": {"start": 9000, "end": 9080}}, False),
        ({"destination_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}, True),
        ({"requested_server_name": {"exact": "reviews"}}, True),
        ({"not_rule": url(exact="/reviews/0")}, False),
        ({"and_rules": {"rules": [ANY, url(prefix="/reviews")]}}, True),
        ({"or_rules": {"rules": [url(prefix="/a"), url(prefix="/b")]}}, False),
    ],
)
def test_permissions(permission: Json, holds: bool) -> None:
    """What a request asks for."""
    assert enters(permission) is holds


@pytest.mark.parametrize(
    ("principal", "peer", "holds"),
    [
        ({"authenticated": {}}, PRODUCTPAGE, True),
        ({"authenticated": {}}, STRANGER, False),
        ({"authenticated": {"principal_name": {"exact": PRODUCTPAGE.spiffe_id}}}, PRODUCTPAGE, True),
        ({"authenticated": {"principal_name": {"suffix": "/sa/reviews"}}}, PRODUCTPAGE, False),
        ({"authenticated": {"principal_name": {"safe_regex": {"regex": ".*"}}}}, STRANGER, False),
        ({"direct_remote_ip": {"address_prefix": "10.0.0.7", "prefix_len": 32}}, PRODUCTPAGE, True),
        ({"source_ip": {"address_prefix": "10.0.0.7", "prefix_len": 32}}, STRANGER, False),
        ({"not_id": {"authenticated": {}}}, STRANGER, True),
        ({"and_ids": {"ids": [ANY, {"authenticated": {}}]}}, STRANGER, False),
    ],
)
def test_principals(principal: Json, peer: Peer, holds: bool) -> None:
    """Who asks."""
    assert enters(ANY, principal, visit(peer=peer)) is holds


@pytest.mark.parametrize(
    ("forwarded", "holds"),
    [("10.9.9.9", True), ("1.2.3.4, 10.9.9.9", True), ("10.9.9.9, 1.2.3.4", False), ("10.9.9.9,", False), ("nobody", False)],
)
def test_the_client_behind_a_proxy_is_the_last_one_named(forwarded: str, holds: bool) -> None:
    """Envoy takes the last address of x-forwarded-for, and the peer's own where that is none."""
    network = {"remote_ip": {"address_prefix": "10.9.0.0", "prefix_len": 16}}
    assert enters(ANY, network, visit("/", ("x-forwarded-for", forwarded))) is holds


@pytest.mark.parametrize(
    ("template", "path", "holds"),
    [
        ("/users/*/posts", "/users/7/posts", True),
        ("/users/*/posts", "/users/7/8/posts", False),
        ("/files/**", "/files/a/b?x=/", True),
        ("/{name}/b", "/a/b", True),
        ("/a/*", "/a/", False),
        ("/a.b", "/aXb", False),
    ],
)
def test_path_templates(template: str, path: str, holds: bool) -> None:
    """`*` is a segment, `**` any number of them."""
    kind = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
    config = {"@type": kind, "path_template": template}
    assert enters({"uri_template": {"name": "t", "typed_config": config}}, ANY, visit(path)) is holds


@pytest.mark.parametrize(
    ("lines", "holds"),
    [((("x-role", "user"), ("x-role", "admin")), True), ((("origin", "user"), ("origin", "admin")), False)],
)
def test_lines_of_a_header_are_compared_each_unless_envoy_joins_them(lines: tuple[tuple[str, str], ...], holds: bool) -> None:
    """`origin` is one text with a comma for Envoy, `x-role` is two."""
    assert enters(header(lines[0][0], string_match={"exact": "admin"}), ANY, visit("/", *lines)) is holds


@pytest.mark.parametrize("name", ["connection", "keep-alive", "x-envoy-retry-on", "transfer-encoding"])
def test_headers_of_one_connection_are_no_matter_of_policy(name: str) -> None:
    """Envoy has removed them before a filter looks."""
    assert not enters(header(name, present_match=True), ANY, visit("/", (name, "close")))


def test_an_empty_request_id_is_replaced_before_policies_look() -> None:
    """As Envoy does: what demands that there is one holds."""
    empty = header("x-request-id", string_match={"exact": ""}, treat_missing_header_as_empty=True)
    assert not enters(empty, ANY, visit("/", ("x-request-id", "")))


@pytest.mark.parametrize(
    ("value", "match", "holds"),
    [
        ("dev", {"string_match": {"exact": "dev"}}, True),
        (["ops", "dev"], {"list_match": {"one_of": {"string_match": {"exact": "dev"}}}}, True),
        (["ops"], {"list_match": {"one_of": {"string_match": {"exact": "dev"}}}}, False),
        (True, {"bool_match": True}, True),
        (1, {"bool_match": True}, False),
        (3, {"double_match": {"range": {"start": 1, "end": 3}}}, False),
        (None, {"null_match": {}}, True),
        ({}, {"present_match": True}, True),
        ("d", {"or_match": {"value_matchers": [{"bool_match": True}, {"string_match": {"prefix": "d"}}]}}, True),
    ],
)
def test_dynamic_metadata(value: Any, match: Json, holds: bool) -> None:
    """What an earlier filter wrote, by type and value."""
    condition = {"metadata": {"filter": "jwt", "path": [{"key": "payload"}, {"key": "group"}], "value": match}}
    asked = visit()
    asked.metadata["jwt"] = {"payload": {"group": value}}
    assert enters(ANY, condition, asked) is holds
    assert not enters(ANY, condition, visit())


def test_deny_names_the_policy_and_allow_none() -> None:
    """Envoy's words, status and response code details."""
    denied = admit_sync(port({"rules": rules("DENY", **{"ns[a]-policy[b c]-rule[0]": (ANY, ANY)})}), visit())
    assert isinstance(denied, Denied)
    assert (denied.status, denied.words, denied.flag) == (403, "RBAC: access denied", "-")
    assert denied.detail == "rbac_access_denied_matched_policy[ns[a]-policy[b_c]-rule[0]]"
    nobody = admit_sync(port({"rules": {"action": "ALLOW"}}), visit())
    assert isinstance(nobody, Denied)
    assert nobody.detail == "rbac_access_denied_matched_policy[none]"


def test_the_log_tells_which_policy_came_closest() -> None:
    """The one with the fewest unmet conditions, and what would have had to be otherwise."""
    far = ({"and_rules": {"rules": [url(exact="/x"), {"destination_port": 1}]}}, {"authenticated": {}})
    near = (url(prefix="/reviews"), {"authenticated": {"principal_name": {"exact": "spiffe://x/reviews"}}})
    asked = visit()
    denied = admit_sync(port({"rules": rules("ALLOW", far=far, near=near)}), asked)
    assert isinstance(denied, Denied)
    assert denied.closest is not None
    assert (
        str(denied.closest(asked))
        == f"closest is policy near: the peer must be exactly 'spiffe://x/reviews', it is {PRODUCTPAGE.spiffe_id}"
    )


def test_a_dry_run_is_noted_and_decides_nothing() -> None:
    """The log and the dynamic metadata say what would have happened."""
    asked = visit()
    shadow = {"shadow_rules": rules("DENY", p=(ANY, ANY)), "shadow_rules_stat_prefix": "istio_dry_run_deny_"}
    assert isinstance(admit_sync(port(shadow), asked), Permit)
    assert asked.dry_runs == [DryRun("deny", "denied", "p")]
    assert str(asked.dry_runs[0]) == "shadow denied, matched policy p"
    prefix = "istio_dry_run_deny_shadow_"
    found = {f"{prefix}engine_result": "denied", f"{prefix}effective_policy_id": "p"}
    assert asked.metadata == {"envoy.filters.http.rbac": found}


def test_what_custom_asks_about_is_no_dry_run() -> None:
    """Its rules are shadow rules, too, with a prefix of their own."""
    asked = visit()
    shadow = {"shadow_rules": rules("DENY", p=(ANY, ANY)), "shadow_rules_stat_prefix": "istio_ext_authz_"}
    assert isinstance(admit_sync(port(shadow), asked), Permit)
    assert asked.dry_runs == []


def test_log_refuses_nobody() -> None:
    """AUDIT is Envoy's LOG: a hint for the access log."""
    asked = visit()
    assert isinstance(admit_sync(port({"rules": rules("LOG", p=(url(exact="/no"), ANY))}), asked), Permit)
    assert asked.metadata == {"envoy.common": {"access_log_hint": False}}


@pytest.mark.parametrize(
    ("written", "field"),
    [
        ({"rules": {"action": "ALLOW", "policies": {"p": {"permissions": [ANY]}}}}, "rbac.rules.policies[p]"),
        ({"rules": rules("ALLOW", p=({}, ANY))}, "rbac.rules.policies[p].permissions[0]"),
        ({"rules": rules("ALLOW", p=(ANY, {"filter_state": {"key": "x"}}))}, "rbac.rules.policies[p].principals[0]"),
        ({"matcher": {}}, "rbac.matcher"),
    ],
)
def test_what_we_would_not_obey_is_refused(written: Json, field: str) -> None:
    """With the field's place, so that nobody believes in a policy that is not in force."""
    with pytest.raises(ConfigurationError) as refused:
        port(written)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("how", "path", "seen"),
    [
        (Normalization(normalize=True), "/a/../admin", "/admin"),
        (Normalization(normalize=True), "/a/..;x/admin#f", "/admin"),
        (Normalization(normalize=True), "/a%00", 400),
        (Normalization(merge_slashes=True), "//admin///x?a//b", "/admin/x?a//b"),
        (Normalization(escaped_slashes=EscapedSlashes.FORWARD, normalize=True), "/a%2f..%5Cadmin", "/admin"),
        (Normalization(escaped_slashes=EscapedSlashes.REJECT), "/a%2fb", 400),
        (Normalization(escaped_slashes=EscapedSlashes.REDIRECT), "/a%2fb", 307),
        (Normalization(normalize=True), "*", 404),
    ],
)
def test_policies_see_the_path_that_the_application_gets(how: Normalization, path: str, seen: str | int) -> None:
    """Normalized first; what cannot be is refused."""
    answer = admit_sync(port(normalization=how), visit(path))
    assert (answer.status if isinstance(answer, Denied) else answer.request.path) == seen


HOST = header(":authority", string_match={"exact": "reviews:9080"})
ELSEWHERE = header(":authority", string_match={"exact": "evil:1"})


@pytest.mark.parametrize(
    ("action", "permission", "enters_anyway"),
    [
        ("DENY", HOST, False),
        ("DENY", ELSEWHERE, False),
        ("DENY", {"not_rule": HOST}, False),
        ("DENY", {"and_rules": {"rules": [HOST, {"not_rule": ELSEWHERE}]}}, False),
        ("DENY", {"and_rules": {"rules": [ELSEWHERE, url(prefix="/admin")]}}, True),
        ("ALLOW", {"not_rule": {"and_rules": {"rules": [HOST, {"not_rule": ELSEWHERE}]}}}, False),
        ("ALLOW", HOST, False),
        ("ALLOW", {"not_rule": ELSEWHERE}, False),
        ("ALLOW", {"or_rules": {"rules": [HOST, url(prefix="/reviews")]}}, True),
        ("ALLOW", url(prefix="/reviews"), True),
        ("DENY", url(prefix="/admin"), True),
    ],
)
def test_an_authority_that_nobody_told_opens_no_door(action: str, permission: Json, enters_anyway: bool) -> None:
    """A `grpc.aio` server does not learn it: who enters would enter under every name."""
    asked = visit()
    asked.knows_authority = False
    answer = admit_sync(port({"rules": rules(action, p=(permission, ANY))}), asked)
    assert isinstance(answer, Permit) == enters_anyway
