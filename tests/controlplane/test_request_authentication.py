"""RequestAuthentication becomes Envoy's jwt_authn filter."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import json_format

from meshlib.config.decode_jwt import jwt_authn
from meshlib.config.jwt import AllOf, AnyOf, HeaderLocation, JwtAuthn, ParameterLocation, Provided
from meshlib.config.messages import message, unpack
from meshlib.errors import ConfigurationError
from meshlib.identity.base64url import decoded
from meshlib.identity.jwk import read_keys
from meshlib_control.analyze import analyze
from meshlib_control.key_set import NOBODYS_KEYS
from meshlib_control.model import KeySource, Node, World
from meshlib_control.translate.request_authentication import token_filters
from tests.conformance.tokens import forge
from tests.support.worlds import REVIEWS, server, world

KEYS = json.dumps({"keys": [forge.pairs()["ec-ES256"].public]})
PORT = 7001


def policy(*rules: dict[str, Any], name: str = "a", namespace: str = "default", **spec: Any) -> str:
    """A RequestAuthentication."""
    body = {"jwtRules": rules, **spec}
    head = {"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication"}
    return json.dumps({**head, "metadata": {"name": name, "namespace": namespace}, "spec": body}) + "\n---\n"


def rule(issuer: str = "iss", **fields: Any) -> dict[str, Any]:
    """A rule with keys inline."""
    return {"issuer": issuer, "jwks": KEYS, **fields}


def made(known: World, node: Node = REVIEWS[0], port: int = PORT) -> dict[str, Any]:
    """The filter as JSON; empty: there is none."""
    filters = token_filters(known, node, port)
    if not filters:
        return {}
    body = unpack(filters[0]["typed_config"])
    pool = body.DESCRIPTOR.file.pool
    found: dict[str, Any] = json_format.MessageToDict(body, preserving_proto_field_name=True, descriptor_pool=pool)
    return found


def test_one_rule_is_written_as_istio_writes_it() -> None:
    """Istio: convertToEnvoyJwtConfig."""
    full = rule(
        audiences=["a", "b"],
        forwardOriginalToken=True,
        outputPayloadToHeader="x-payload",
        outputClaimToHeaders=[{"header": "x-sub", "claim": "sub"}],
        fromHeaders=[{"name": "x-jwt", "prefix": "JWT "}],
        fromParams=["jwt"],
        fromCookies=["session"],
        spaceDelimitedClaims=["roles"],
    )
    assert made(world(policy(full))) == {
        "providers": {
            "origins-0": {
                "issuer": "iss",
                "audiences": ["a", "b"],
                "local_jwks": {"inline_string": KEYS},
                "forward": True,
                "forward_payload_header": "x-payload",
                "claim_to_headers": [{"header_name": "x-sub", "claim_name": "sub"}],
                "from_headers": [{"name": "x-jwt", "value_prefix": "JWT "}],
                "from_params": ["jwt"],
                "from_cookies": ["session"],
                "payload_in_metadata": "payload",
                "normalize_payload_in_metadata": {"space_delimited_claims": ["permission", "roles", "scope"]},
            }
        },
        "rules": [
            {
                "match": {"prefix": "/"},
                "requires": {"requires_any": {"requirements": [{"provider_name": "origins-0"}, {"allow_missing": {}}]}},
            }
        ],
        "bypass_cors_preflight": True,
    }


def test_several_rules_are_any_of_them_or_each_that_is_shown() -> None:
    """In the order of their issuers, whichever policy they come from."""
    found = made(world(policy(rule("c"), rule("a")), policy(rule("b"), name="b")))
    assert [found["providers"][f"origins-{index}"]["issuer"] for index in range(3)] == ["a", "b", "c"]
    each = [{"provider_name": f"origins-{index}"} for index in range(3)]
    tolerant = [{"requires_any": {"requirements": [one, {"allow_missing": {}}]}} for one in each]
    requires = found["rules"][0]["requires"]
    assert requires == {"requires_any": {"requirements": [*each, {"requires_all": {"requirements": tolerant}}]}}


@pytest.mark.parametrize(
    ("text", "applies"),
    [
        (policy(rule()), True),
        (policy(rule(), namespace="istio-system"), True),
        (policy(rule(), namespace="other"), False),
        (policy(rule(), selector={"matchLabels": {"app": "reviews"}}), True),
        (policy(rule(), selector={"matchLabels": {"app": "ratings"}}), False),
        (policy(rule(), namespace="istio-system", selector={"matchLabels": {"app": "reviews"}}), True),
        (policy(rule(), targetRefs=[{"kind": "Service", "name": "reviews"}]), True),
        (policy(rule(), targetRefs=[{"kind": "Service", "name": "ratings"}]), False),
        (policy(), False),
    ],
)
def test_policies_of_the_root_and_of_the_workloads_namespace_apply(text: str, applies: bool) -> None:
    """As far as they select the workload; they add up."""
    assert bool(made(world(text))) is applies


def test_grpcio_gets_no_filter_that_it_would_refuse() -> None:
    """It knows none for tokens."""
    assert made(world(policy(rule())), server(kind="grpc")) == {}


def test_fetched_keys_are_inline() -> None:
    """What the control plane fetched for this URI and issuer."""
    source = KeySource("http://keys", "iss")
    known = replace(world(policy({"issuer": "iss", "jwksUri": "http://keys"})), key_sets=MappingProxyType({source: KEYS}))
    assert made(known)["providers"]["origins-0"]["local_jwks"] == {"inline_string": KEYS}


@pytest.mark.parametrize(
    "keys", [{"jwksUri": "http://keys"}, {}, {"jwks": '{"keys": []}'}, {"jwks": '{"keys": [{"kty": "RSA"}]}'}]
)
def test_without_usable_keys_every_token_is_refused(keys: dict[str, str]) -> None:
    """Never fetched, or none of use. A listener that Envoy refuses would go on with what held before."""
    found = made(world(policy({"issuer": "iss", **keys})))
    assert found["providers"]["origins-0"]["local_jwks"] == {"inline_string": NOBODYS_KEYS}


def test_nobody_can_know_the_private_key_of_nobodys_key() -> None:
    """Its point was not made from a private key: x is a hash of words."""
    (key,) = json.loads(NOBODYS_KEYS)["keys"]
    x, y = (int.from_bytes(decoded(key[name]), "big") for name in ("x", "y"))
    assert x.to_bytes(32, "big") == hashlib.sha256(b"meshlib: nobody signs with this key 0").digest()
    ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    assert len(read_keys(NOBODYS_KEYS)) == 1


def test_the_library_reads_what_the_control_plane_writes() -> None:
    """Rules, default places in the order of Envoy, and the minute of skew."""
    known = world(policy(rule("b"), rule("a")))
    (written,) = token_filters(known, REVIEWS[0], PORT)
    found = jwt_authn(unpack(written["typed_config"]), "filter")
    assert isinstance(found, JwtAuthn)
    first, second = Provided("origins-0"), Provided("origins-1")
    tolerant = tuple(AnyOf((one,), allow_missing=True) for one in (first, second))
    assert found.requirement == AnyOf((first, second, AllOf(tolerant)))
    assert found.providers[0].locations == (ParameterLocation("access_token"), HeaderLocation("authorization", "Bearer "))
    assert (found.providers[0].skew, found.providers[0].metadata_key, found.bypass_preflight) == (60, "payload", True)


PROVIDER = {"local_jwks": {"inline_string": KEYS}}
ONE = {"provider_name": "a"}
EVERYTHING = {"prefix": "/"}


@pytest.mark.parametrize(
    "written",
    [
        {"rules": [{"match": EVERYTHING, "requires": {"provider_name": "b"}}]},
        {"rules": [{"match": {"prefix": "/a"}, "requires": ONE}]},
        {"rules": [{"match": EVERYTHING, "requires": ONE}, {"match": EVERYTHING, "requires": ONE}]},
        {"rules": [{"match": EVERYTHING, "requirement_name": "a"}]},
        {"rules": [{"match": EVERYTHING}]},
        {"rules": [{"match": EVERYTHING, "requires": {"allow_missing": {}}}]},
        {"rules": [{"match": EVERYTHING, "requires": {"requires_any": {"requirements": [{"allow_missing": {}}]}}}]},
        {"rules": [{"match": EVERYTHING, "requires": {"provider_and_audiences": {"provider_name": "a"}}}]},
        {"strip_failure_response": True},
        {"providers": {"a": {"remote_jwks": {}}}},
        {"providers": {"a": {"local_jwks": {"filename": "/etc/keys"}}}},
        {"providers": {"a": {**PROVIDER, "require_expiration": True}}},
        {"providers": {"a": {**PROVIDER, "max_lifetime": {"seconds": 1}}}},
        {"providers": {"a": {**PROVIDER, "subjects": {"exact": "a"}}}},
    ],
)
def test_what_the_library_would_not_obey_it_refuses(written: dict[str, Any]) -> None:
    """Half a filter would let in whom it should not."""
    whole = {"providers": {"a": PROVIDER}, "rules": [{"match": EVERYTHING, "requires": ONE}], **written}
    body = message("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication")(**whole)
    with pytest.raises(ConfigurationError, match="filter"):
        jwt_authn(body, "filter")


def test_a_filter_without_rules_asks_nothing_of_anybody() -> None:
    """As Envoy."""
    body = message("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication")(providers={"a": PROVIDER})
    assert jwt_authn(body, "filter") is None


def test_keys_that_lock_everybody_out_are_told() -> None:
    """Those inline that cannot be used, and sources that give none."""
    texts = policy(rule(jwks='{"keys": [{"kty": "XX"}]}'), {"issuer": "iss", "jwksUri": "http://keys"}, rule("fine"))
    source = KeySource("http://keys", "iss")
    known = replace(world(texts), key_problems=MappingProxyType({source: "it answers 404"}))
    found = [(one.field, one.severity.value, one.message) for one in analyze(known)]
    assert found == [
        ("spec.jwtRules[0].jwks", "Error", "none of these keys can be used: every token of iss is refused"),
        (
            "spec.jwtRules[1]",
            "Warning",
            "http://keys gives no keys: it answers 404; until it gives some, its tokens are refused",
        ),
    ]
    kept = analyze(replace(known, key_sets=MappingProxyType({source: KEYS})))
    assert kept[1].message.endswith("the last good keys hold")
