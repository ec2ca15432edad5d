"""Values of an AuthorizationPolicy as Envoy's matchers. Istio: pilot/pkg/security/authz/matcher and model/generator.go.

    abc     exactly abc        abc*    begins with abc
    *       there is a value   *abc    ends with abc

Every function gives one part of a permission or a principal of `envoy.config.rbac.v3`, in the form of its fields.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_interface
from typing import Any, Final

from meshlib.config.messages import message, pack

Part = dict[str, Any]

SPIFFE: Final = "spiffe://"
JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD: Final = "payload"
_URI_TEMPLATE: Final = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
_ANY_VALUE: Final = {"safe_regex": {"regex": ".+"}}
_LITERAL: Final = r"[-a-zA-Z0-9._~%!$&'()+,;:@=]+"
_TEMPLATE: Final = re.compile(rf"(?:/(?:\{{\*\}}|{_LITERAL}))*(?:/\{{\*\*\}})?(?:/{_LITERAL})*/?")


class Unenforceable(Exception):
    """A field or a value that cannot be checked where it should be."""


def text(value: str, prefix: str = "") -> Part:
    """A StringMatcher.

    Args:
        prefix: what stands before the value in what it is compared with, `spiffe://`.
    """
    if value == "*":
        return _ANY_VALUE
    if value.startswith("*"):
        ending = value[1:]
        return {"safe_regex": {"regex": f"{prefix}.*{quoted(ending)}"}} if prefix else {"suffix": ending}
    if value.endswith("*"):
        return {"prefix": prefix + value[:-1]}
    return {"exact": prefix + value}


def quoted(literal: str) -> str:
    """A literal inside of an RE2 expression (Go: regexp.QuoteMeta)."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", literal)


def header(name: str, value: str, *, ignore_case: bool = False) -> Part:
    """A header of a request. `*`: it is there, maybe empty."""
    if set(name) & set("\x00\r\n"):
        raise Unenforceable(f"{name!r} is no name of a header")
    if value == "*":
        return {"header": {"name": name, "present_match": True}}
    return {"header": {"name": name, "string_match": {**text(value), "ignore_case": ignore_case}}}


def is_template(path: str) -> bool:
    """Whether a path has `{*}` or `{**}`."""
    return "{*}" in path or "{**}" in path


def path(value: str) -> Part:
    """The path of a request without its query."""
    if not is_template(value):
        return {"url_path": {"path": text(value)}}
    template = value.replace("{**}", "**").replace("{*}", "*")
    # Envoy 1.40 refuses a longer one, and crashes with one that is no template.
    if len(template) > 256 or not _TEMPLATE.fullmatch(value):
        raise Unenforceable(f"{value} is no path template")
    config = pack(message(_URI_TEMPLATE)(path_template=template))
    return {"uri_template": {"name": "uri-template", "typed_config": config}}


def subnet(value: str) -> Part:
    """A CidrRange from `10.1.0.0/16` or a single address."""
    try:
        found = ip_interface(value)
    except ValueError as error:
        raise Unenforceable(str(error)) from error
    return {"address_prefix": str(found.ip), "prefix_len": {"value": found.network.prefixlen}}


def port(value: str) -> int:
    """A port's number."""
    if not (value.isascii() and value.isdigit() and int(value) < 65536):
        raise Unenforceable(f"{value} is no port")
    return int(value)


def peer(name: Part) -> Part:
    """The name in a peer's certificate: its SPIFFE id."""
    return {"authenticated": {"principal_name": name}}


def principal(value: str) -> Part:
    """A peer as `cluster.local/ns/default/sa/productpage`."""
    return peer(text(value, SPIFFE))


def namespace(value: str) -> Part:
    """A peer of a namespace, which may have `*` anywhere."""
    form = ".*".join(quoted(literal) for literal in value.split("*"))
    return peer({"safe_regex": {"regex": f".*/ns/{form}/.*"}})


def service_account(value: str, home: str) -> Part:
    """A peer by `account` or `namespace/account`.

    Args:
        home: the policy's namespace, for accounts without one.
    """
    where, slash, account = value.partition("/")
    if not slash:
        where, account = home, value
    return peer({"safe_regex": {"regex": f"spiffe://.+/ns/{quoted(where)}/(.+/|)sa/{quoted(account)}(/.+)?"}})


def trust_domain(value: str) -> Part:
    """A peer of a trust domain."""
    if value == "*":
        return peer({"prefix": SPIFFE})
    if "*" not in value:
        return peer({"prefix": f"{SPIFFE}{value}/"})
    before, _, after = value.partition("*")
    return peer({"safe_regex": {"regex": f"spiffe://{quoted(before)}[^/]*{quoted(after)}/.*"}})


def request_principal(value: str) -> tuple[Part, Part]:
    """Issuer and subject of a token, written `issuer/subject`; an issuer may have slashes of its own.

    A value without a slash that begins or ends with `*` names the subject's end or the issuer's beginning (Istio).
    """
    issuer, slash, subject = value.rpartition("/")
    begins, ends = value.startswith("*"), value.endswith("*")
    if slash:
        wanted = (text(issuer) if begins else {"exact": issuer}, _beginning(subject) if ends > begins else {"exact": subject})
    elif begins:
        wanted = (_ANY_VALUE, text(value))
    else:
        wanted = (_beginning(value) if ends else {"exact": value}, _ANY_VALUE if ends else {"exact": ""})
    return _claim("iss", wanted[0]), _claim("sub", wanted[1])


def _beginning(value: str) -> Part:
    """What a value that ends with `*` says about the beginning."""
    return {"prefix": value[:-1]} if value[:-1] else _ANY_VALUE


def _claim(name: str, match: Part) -> Part:
    return metadata(JWT_FILTER, (JWT_PAYLOAD, name), {"string_match": match})


def claim(names: Sequence[str], values: Sequence[str]) -> Part:
    """A claim of a token: its text, or one of its texts if it is a list.

    Args:
        names: the way to it through nested claims.
    """
    wanted = either([{"string_match": text(value)} for value in values])
    found = either([{"list_match": {"one_of": wanted}}, wanted])
    return metadata(JWT_FILTER, (JWT_PAYLOAD, *names), found)


def claim_names(argument: str) -> tuple[str, ...]:
    """The way to a claim from what stands in the brackets of `request.auth.claims[a][b]`: `a][b`."""
    names = argument.split("][")
    return (argument,) if any(bracket in name for name in names for bracket in "[]") else tuple(names)


def filter_value(filter_name: str, key: str, values: Sequence[str]) -> Part:
    """What a filter wrote into the dynamic metadata. `[abc]` stands for a list that has `abc`."""
    return metadata(filter_name, (key,), either([_filter_value(value) for value in values]))


def _filter_value(value: str) -> Part:
    if value.startswith("[") and value.endswith("]"):
        return {"list_match": {"one_of": {"string_match": text(value.strip("[]"))}}}
    return {"string_match": text(value)}


def either(values: list[Part]) -> Part:
    """A ValueMatcher for any of several."""
    return values[0] if len(values) == 1 else {"or_match": {"value_matchers": values}}


def metadata(filter_name: str, keys: Sequence[str], value: Part) -> Part:
    """A place in the dynamic metadata."""
    if not all(keys):
        raise Unenforceable("a key is empty")
    return {"metadata": {"filter": filter_name, "path": [{"key": key} for key in keys], "value": value}}
