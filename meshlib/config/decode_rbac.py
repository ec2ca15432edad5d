"""Envoy's RBAC filter (config.rbac.v3) -> `meshlib.config.policy`. Part of `decode`, and under its rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from meshlib.config import decode_fields as fields
from meshlib.config.decode_match import compiled, header_match, string_match
from meshlib.config.decode_metadata import metadata
from meshlib.config.policy import (
    Action,
    Address,
    All,
    Always,
    AnyOf,
    Authenticated,
    Condition,
    Header,
    Ip,
    Not,
    Policy,
    Port,
    Rbac,
    Rules,
    ServerName,
    UriTemplate,
    UrlPath,
)
from meshlib.errors import ConfigurationError

Read = Callable[[Any, str], Condition]


def rbac(body: Any, place: str) -> Rbac:
    """The filter envoy.filters.http.rbac. Raises ConfigurationError for what we would not obey."""
    for name in ("matcher", "shadow_matcher"):
        if body.HasField(name):
            raise ConfigurationError("match trees are not supported, only rules", field=f"{place}.{name}")
    return Rbac(
        rules=_rules(body.rules, f"{place}.rules") if body.HasField("rules") else None,
        shadow=_rules(body.shadow_rules, f"{place}.shadow_rules") if body.HasField("shadow_rules") else None,
        shadow_prefix=body.shadow_rules_stat_prefix,
    )


def _rules(rules: Any, place: str) -> Rules:
    name = fields.enum_name(rules, "action")
    if name not in Action.__members__:
        raise ConfigurationError(f"unknown action {name}", field=f"{place}.action")
    names = sorted(rules.policies, key=str.encode)  # Envoy: a std::map, by bytes
    return Rules(Action[name], tuple(_policy(one, rules.policies[one], f"{place}.policies[{one}]") for one in names))


def _policy(name: str, policy: Any, place: str) -> Policy:
    for unknown in ("condition", "checked_condition"):
        if policy.HasField(unknown):
            raise ConfigurationError("CEL expressions are not supported", field=f"{place}.{unknown}")
    permissions = _parts(policy.permissions, _permission, f"{place}.permissions")
    principals = _parts(policy.principals, _principal, f"{place}.principals")
    if not permissions or not principals:
        raise ConfigurationError("a policy needs permissions and principals", field=place)
    return Policy(name, AnyOf(permissions), AnyOf(principals))


def _parts(parts: Iterable[Any], read: Read, place: str) -> tuple[Condition, ...]:
    return tuple(read(part, f"{place}[{index}]") for index, part in enumerate(parts))


def _permission(permission: Any, place: str) -> Condition:
    return _condition(permission, "rule", _PERMISSIONS, place)


def _principal(principal: Any, place: str) -> Condition:
    return _condition(principal, "identifier", _PRINCIPALS, place)


def _condition(part: Any, oneof: str, readers: Mapping[str, Read], place: str) -> Condition:
    form = part.WhichOneof(oneof)
    if form not in readers:
        raise ConfigurationError(f"{form or 'an empty condition'} is not supported", field=place)
    return readers[form](getattr(part, form), f"{place}.{form}")


def _always(value: bool, place: str) -> Condition:
    return Always()  # Envoy demands true here and looks no further


def _url_path(matcher: Any, place: str) -> Condition:
    return UrlPath(string_match(matcher.path, f"{place}.path"))


def _port(value: int, place: str) -> Condition:
    return Port(value, value)


def _port_range(span: Any, place: str) -> Condition:
    if not 0 <= span.start < span.end <= 65536:
        raise ConfigurationError(f"{span.start} to {span.end} is no range of ports", field=place)
    return Port(span.start, span.end - 1)


def _ip(address: Address) -> Read:
    return lambda subnet, place: Ip(address, _network(subnet, place))


def _network(subnet: Any, place: str) -> IPv4Network | IPv6Network:
    try:
        base = ip_network(subnet.address_prefix)
        return ip_network((base.network_address, min(subnet.prefix_len.value, base.max_prefixlen)), strict=False)
    except ValueError as error:
        raise ConfigurationError(str(error), field=place) from error


def _authenticated(authenticated: Any, place: str) -> Condition:
    if not authenticated.HasField("principal_name"):
        return Authenticated()
    return Authenticated(string_match(authenticated.principal_name, f"{place}.principal_name"))


def _sourced_metadata(sourced: Any, place: str) -> Condition:
    if sourced.metadata_source:
        raise ConfigurationError("only dynamic metadata is supported", field=f"{place}.metadata_source")
    return metadata(sourced.metadata_matcher, f"{place}.metadata_matcher")


def _uri_template(extension: Any, place: str) -> Condition:
    config = fields.unpacked(extension.typed_config, place)
    if config.DESCRIPTOR.name != "UriTemplateMatchConfig":
        raise ConfigurationError("only UriTemplateMatchConfig is supported", field=place)
    return UriTemplate(config.path_template, compiled(template_expression(config.path_template, place)))


_LITERAL = r"a-zA-Z0-9\-._~%!$&'()+,;:@"  # Envoy, uri_template_internal.cc: what a template may say; in a path * and = too
_ONE_SEGMENT, _ANY_SEGMENTS = f"[{_LITERAL}*=]+", f"[{_LITERAL}*=/]*"
_WORD = re.compile(rf"\*\*|\*|\{{[a-zA-Z][a-zA-Z0-9_]*(?:=[^}}]*)?\}}|[{_LITERAL}]+|/")


def template_expression(template: str, place: str) -> str:
    """The regular expression that a path template stands for; variables are read, not caught.

    `*` is one segment, `**` any number, `{name}` a segment, `{name=/a/*}` its pattern. Raises ConfigurationError.
    """
    words = _WORD.findall(template)
    if not template.startswith("/") or "".join(words) != template:
        raise ConfigurationError(f"{template!r} is no path template", field=place)
    return "".join(_word(word, place) for word in words)


def _word(word: str, place: str) -> str:
    if word == "**":
        return _ANY_SEGMENTS
    if word == "*":
        return _ONE_SEGMENT
    if word.startswith("{"):
        _, given, pattern = word[1:-1].partition("=")
        return template_expression(f"/{pattern}", place)[1:] if given else _ONE_SEGMENT
    return re.sub(r"[$()+.]", r"\\\g<0>", word)


_BOTH: Mapping[str, Read] = {
    "any": _always,
    "header": lambda header, place: Header(header_match(header, place)),
    "url_path": _url_path,
    "metadata": metadata,
    "sourced_metadata": _sourced_metadata,
}

_PERMISSIONS: Mapping[str, Read] = {
    **_BOTH,
    "and_rules": lambda group, place: All(_parts(group.rules, _permission, place)),
    "or_rules": lambda group, place: AnyOf(_parts(group.rules, _permission, place)),
    "not_rule": lambda part, place: Not(_permission(part, place)),
    "destination_ip": _ip(Address.DESTINATION),
    "destination_port": _port,
    "destination_port_range": _port_range,
    "requested_server_name": lambda matcher, place: ServerName(string_match(matcher, place)),
    "uri_template": _uri_template,
}

_PRINCIPALS: Mapping[str, Read] = {
    **_BOTH,
    "and_ids": lambda group, place: All(_parts(group.ids, _principal, place)),
    "or_ids": lambda group, place: AnyOf(_parts(group.ids, _principal, place)),
    "not_id": lambda part, place: Not(_principal(part, place)),
    "authenticated": _authenticated,
    "source_ip": _ip(Address.DIRECT),
    "direct_remote_ip": _ip(Address.DIRECT),
    "remote_ip": _ip(Address.REMOTE),
}
