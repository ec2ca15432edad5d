"""One rule of an AuthorizationPolicy as one policy of `envoy.config.rbac.v3`. Istio: pilot/pkg/security/authz/model.

    from -> principals      to -> permissions      when -> joins each of the one or of the other, by its key

Rule 1: fields of a source or an operation must all hold, one of the values of each; `not` fields: none of the values.
Rule 2: what cannot be checked at a place (methods of a TCP connection) makes policies narrower in what they allow and wider in
        what they deny: a rule of ALLOW falls away as a whole, a rule of any other action loses that field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from meshlib.config.messages import message
from meshlib_control.kinds.security import Condition, Operation, Rule, Source
from meshlib_control.translate import authorization_match as match
from meshlib_control.translate.authorization_match import Part, Unenforceable
from meshlib_control.translate.trust_domains import expanded, in_all_domains


class Place(Enum):
    """What checks a rule."""

    HTTP = auto()  # requests, by Envoy and by the library
    GRPC = auto()  # requests, by grpcio (gRFC A41)
    TCP = auto()  # connections, by Envoy


@dataclass(frozen=True, slots=True)
class Scope:
    """What a rule means depends on it.

    Args:
        place: what checks it.
        namespace: the policy's.
        domains: the trust domain and its aliases.
    """

    place: Place
    namespace: str
    domains: tuple[str, ...]


class _Side(NamedTuple):
    """The words of one side of a policy: permissions and principals are built alike."""

    all: str
    any: str
    none: str
    members: str

    def all_of(self, parts: Sequence[Part]) -> Part:
        return {self.all: {self.members: list(parts) or [{"any": True}]}}

    def any_of(self, parts: Sequence[Part]) -> Part:
        return {self.any: {self.members: list(parts)}}

    def none_of(self, part: Part) -> Part:
        return {self.none: part}


_PERMISSION: Final = _Side("and_rules", "or_rules", "not_rule", "rules")
_PRINCIPAL: Final = _Side("and_ids", "or_ids", "not_id", "ids")

_Values = Sequence[str]
_Match = Callable[[str, _Values, Scope], Part]
"""Argument (what stands in brackets in the key), values, scope -> a part that holds for any of the values."""

_EVERYWHERE: Final = frozenset(Place)
_REQUESTS: Final = frozenset({Place.HTTP, Place.GRPC})
_TOKENS: Final = frozenset({Place.HTTP})
# grpcio accepts these matchers, but nothing ever fulfils them.
_NOT_IN_GRPCIO: Final = frozenset({Place.HTTP, Place.TCP})


@dataclass(frozen=True, slots=True)
class _Attribute:
    side: _Side
    places: frozenset[Place]
    match: _Match


def _permission(of_value: Callable[[str], Part], places: frozenset[Place] = _EVERYWHERE) -> _Attribute:
    return _Attribute(_PERMISSION, places, lambda _argument, values, _scope: _PERMISSION.any_of([*map(of_value, values)]))


def _principal(of_value: Callable[[str], Part], places: frozenset[Place] = _EVERYWHERE) -> _Attribute:
    return _Attribute(_PRINCIPAL, places, lambda _argument, values, _scope: _PRINCIPAL.any_of([*map(of_value, values)]))


def _claims(name: str) -> _Attribute:
    return _Attribute(_PRINCIPAL, _TOKENS, lambda _argument, values, _scope: match.claim((name,), values))


def _principals(_argument: str, values: _Values, scope: Scope) -> Part:
    return _PRINCIPAL.any_of([match.principal(value) for value in in_all_domains(values, scope.domains)])


def _trust_domains(_argument: str, values: _Values, scope: Scope) -> Part:
    return _PRINCIPAL.any_of([match.trust_domain(value) for value in expanded(values, scope.domains)])


def _service_accounts(_argument: str, values: _Values, scope: Scope) -> Part:
    return _PRINCIPAL.any_of([match.service_account(value, scope.namespace) for value in values])


def _request_principals(_argument: str, values: _Values, _scope: Scope) -> Part:
    found = [_PRINCIPAL.all_of(match.request_principal(value)) for value in values]
    return found[0] if len(found) == 1 else _PRINCIPAL.any_of(found)


def _header(argument: str, values: _Values, scope: Scope) -> Part:
    name = argument.lower()
    # gRFC A41: grpcio refuses the first two and never shows the others to a policy.
    if scope.place is Place.GRPC and (name == ":scheme" or name.startswith("grpc-") or name == "te" or name.endswith("-bin")):
        raise Unenforceable(f"grpcio does not compare the header {name}")
    return _PRINCIPAL.any_of([match.header(name, value) for value in values])


def _paths(_argument: str, values: _Values, scope: Scope) -> Part:
    if scope.place is Place.GRPC and any(map(match.is_template, values)):
        raise Unenforceable("grpcio has no path templates")
    return _PERMISSION.any_of([match.path(value) for value in values])


_ATTRIBUTES: Final[Mapping[str, _Attribute]] = {
    "source.principal": _Attribute(_PRINCIPAL, _EVERYWHERE, _principals),
    "source.namespace": _principal(match.namespace),
    "source.serviceAccount": _Attribute(_PRINCIPAL, _EVERYWHERE, _service_accounts),
    "source.trustDomain": _Attribute(_PRINCIPAL, _EVERYWHERE, _trust_domains),
    "source.ip": _principal(lambda value: {"direct_remote_ip": match.subnet(value)}),
    "remote.ip": _principal(lambda value: {"remote_ip": match.subnet(value)}, _NOT_IN_GRPCIO),
    "request.auth.principal": _Attribute(_PRINCIPAL, _TOKENS, _request_principals),
    "request.auth.audiences": _claims("aud"),
    "request.auth.presenter": _claims("azp"),
    "request.auth.claims": _Attribute(
        _PRINCIPAL, _TOKENS, lambda argument, values, _scope: match.claim(match.claim_names(argument), values)
    ),
    "request.headers": _Attribute(_PRINCIPAL, _REQUESTS, _header),
    "destination.ip": _permission(lambda value: {"destination_ip": match.subnet(value)}),
    "destination.port": _permission(lambda value: {"destination_port": match.port(value)}),
    "connection.sni": _permission(lambda value: {"requested_server_name": match.text(value)}, _NOT_IN_GRPCIO),
    "host": _permission(lambda value: match.header(":authority", value, ignore_case=True), _REQUESTS),
    "method": _permission(lambda value: match.header(":method", value), _REQUESTS),
    "path": _Attribute(_PERMISSION, _REQUESTS, _paths),
}

_FILTERS: Final = "experimental."
_FILTERS_FIRST: Final = "experimental.envoy.filters."

# In the order in which Istio writes them.
_SOURCE_FIELDS: Final = (
    ("principals", "source.principal"),
    ("request_principals", "request.auth.principal"),
    ("service_accounts", "source.serviceAccount"),
    ("trust_domains", "source.trustDomain"),
    ("namespaces", "source.namespace"),
    ("remote_ip_blocks", "remote.ip"),
    ("ip_blocks", "source.ip"),
)
_OPERATION_FIELDS: Final = (
    ("hosts", "host"),
    ("methods", "method"),
    ("paths", "path"),
    ("ports", "destination.port"),
)


def rbac_policy(rule: Rule, scope: Scope, *, allow: bool) -> Any | None:
    """The rule as `envoy.config.rbac.v3.Policy`; None: it never holds, as `scope.place` cannot check it.

    Args:
        allow: the action is ALLOW (rule 2).
    """
    operations = [_fields(to.operation, _OPERATION_FIELDS) for to in rule.to] or [[]]
    sources = [_fields(one.source, _SOURCE_FIELDS) for one in rule.from_] or [[]]
    try:
        return message("envoy.config.rbac.v3.Policy")(
            permissions=[_all_of(_PERMISSION, [*fields, *rule.when], scope, allow) for fields in operations],
            principals=[_all_of(_PRINCIPAL, [*fields, *rule.when], scope, allow) for fields in sources],
        )
    except Unenforceable:
        return None


def never() -> Any:
    """A policy that holds for nothing: what a policy without rules means (Istio)."""
    return message("envoy.config.rbac.v3.Policy")(
        permissions=[_PERMISSION.none_of({"any": True})], principals=[_PRINCIPAL.none_of({"any": True})]
    )


def _fields(part: Source | Operation | None, names: Sequence[tuple[str, str]]) -> list[Condition]:
    """The fields that are set, as conditions."""
    found = (Condition(key, getattr(part, name), getattr(part, f"not_{name}")) for name, key in names if part is not None)
    return [one for one in found if one.values or one.not_values]


def _all_of(side: _Side, conditions: Sequence[Condition], scope: Scope, allow: bool) -> Part:
    return side.all_of([part for one in conditions for part in _parts(side, one, scope, allow)])


def _parts(side: _Side, condition: Condition, scope: Scope, allow: bool) -> Iterator[Part]:
    for values, negated in ((condition.values, False), (condition.not_values, True)):
        try:
            part = _part(side, condition.key, values, scope) if values else None
        except Unenforceable:
            if allow:
                raise
            continue
        if part is not None:
            yield side.none_of(part) if negated else part


def _part(side: _Side, key: str, values: _Values, scope: Scope) -> Part | None:
    """None: the condition is of the other side."""
    name, _, rest = key.partition("[")
    attribute = _filter_attribute(name) if name.startswith(_FILTERS_FIRST) else _ATTRIBUTES.get(name)
    if attribute is None:
        raise Unenforceable(f"unknown attribute {key}")
    if attribute.side is not side:
        return None
    if scope.place not in attribute.places:
        raise Unenforceable(f"{key} is not known to {scope.place.name}")
    return attribute.match(rest.removesuffix("]"), values, scope)


def _filter_attribute(name: str) -> _Attribute:
    filter_name = name.removeprefix(_FILTERS)
    return _Attribute(_PERMISSION, _NOT_IN_GRPCIO, lambda key, values, _scope: match.filter_value(filter_name, key, values))
