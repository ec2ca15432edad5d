"""Whether a request meets the conditions of a rule, wherever the rule stands. Envoy's rules:

Rule 1: paths are compared without query and fragment; query parameters are compared as written, not percent-decoded.
Rule 2: a regular expression must match the whole text. Texts are bytes, shown as latin-1: what an object says in UTF-8 fits a
request that says it in UTF-8. Only ASCII letters have two cases.
Rule 3: each line of a header is compared for itself and one that fits is enough (Envoy 1.40; older ones joined them by a comma
first), but for the headers that Envoy keeps in one line. Inverted: none may fit. `host` is another name of `:authority`.
Rule 4: a missing header fails its condition, inverted or not, unless it is compared as the empty string or asked for presence.
"""

from __future__ import annotations

from typing import Protocol

from meshlib.config.model import HeaderMatch, MatchKind, QueryMatch, StringMatch
from meshlib.facts import Headers, ascii_lower


class Message(Protocol):
    """A request or a response: what has headers."""

    @property
    def headers(self) -> Headers:
        """In order, names in lower case."""

    def header(self, name: str) -> str | None:
        """The value of a header, several joined by a comma; None if absent."""


# Names of our own, compared by identity: a table would hash an Enum member, which costs more than the comparison itself.
_EXACT, _PREFIX, _SUFFIX = MatchKind.EXACT, MatchKind.PREFIX, MatchKind.SUFFIX
_REGEX, _PRESENT = MatchKind.REGEX, MatchKind.PRESENT


def text_matches(condition: StringMatch, text: str) -> bool:
    """Whether a text meets a condition."""
    kind = condition.kind
    if condition.ignore_case:
        text = ascii_lower(text)
    if kind is _PREFIX:
        return text.startswith(condition.value)
    if kind is _EXACT:
        return text == condition.value
    if kind is _REGEX:
        assert condition.pattern is not None
        return condition.pattern.fullmatch(text.encode("latin-1", "replace")) is not None
    if kind is _SUFFIX:
        return text.endswith(condition.value)
    return kind is _PRESENT or condition.value in text


def header_matches(condition: HeaderMatch, message: Message) -> bool:
    """Whether a header meets a condition (rules 3 and 4)."""
    return values_match(condition, header_values(condition.name, message))


def values_match(condition: HeaderMatch, values: list[str]) -> bool:
    """As `header_matches`, for the values of the header's lines."""
    if not values and condition.missing_as_empty:
        values = [""]
    match = condition.match
    if match.kind is _PRESENT:
        return bool(values) != condition.invert
    if not values:
        return False
    return any(text_matches(match, value) for value in values) != condition.invert


ONE_LINE = frozenset(
    """
    accept accept-encoding access-control-request-headers access-control-request-method
    access-control-request-private-network authorization cache-control cdn-loop content-encoding content-length
    content-type expect grpc-accept-encoding grpc-timeout if-match if-modified-since if-none-match if-range
    if-unmodified-since keep-alive origin pragma proxy-connection referer te transfer-encoding upgrade user-agent via
    x-client-trace-id x-envoy-attempt-count x-envoy-decorator-operation x-envoy-downstream-service-cluster
    x-envoy-downstream-service-node x-envoy-external-address x-envoy-is-timeout-retry x-envoy-original-host
    x-envoy-original-path x-forwarded-client-cert x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto
    x-request-id
    """.split()  # noqa: SIM905  # a list takes forty lines
)
"""Headers of which Envoy keeps one line, several joined by a comma; its filters register some of them (tried with 1.40)."""


def header_values(name: str, message: Message) -> list[str]:
    """The values of a header or pseudo header, one for each line, without blanks around them."""
    if name.startswith(":") or name == "host":
        value = message.header(":authority" if name == "host" else name)
        return [] if value is None else [value]
    values = [value.strip(" \t") for key, value in message.headers if key == name]
    return [",".join(filter(None, values))] if len(values) > 1 and name in ONE_LINE else values


def bare_path(path: str) -> str:
    """The path without its query and fragment."""
    path = path.partition("?")[0]
    return path.partition("#")[0] if "#" in path else path


_WORDS = {
    MatchKind.EXACT: "exactly {!r}",
    MatchKind.PREFIX: "of prefix {!r}",
    MatchKind.SUFFIX: "of suffix {!r}",
    MatchKind.CONTAINS: "with {!r} in it",
    MatchKind.REGEX: "a match of regex {!r}",
    MatchKind.PRESENT: "present",
}


def query_parameters(path: str) -> dict[str, str]:
    """The query's parameters as written; of several with one name the first; one without `=` has the empty value."""
    found: dict[str, str] = {}
    for part in path.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        found.setdefault(name, value)
    return found


def query_matches(condition: QueryMatch, parameters: dict[str, str]) -> bool:
    """Whether a query parameter is there and meets a condition."""
    value = parameters.get(condition.name)
    return value is not None and text_matches(condition.match, value)


def wanted(match: StringMatch) -> str:
    """What a comparison asks for, for people: `exactly '/reviews'`."""
    return _WORDS[match.kind].format(match.value) + (" (any case)" if match.ignore_case else "")


def shown(values: list[str]) -> str:
    """Values of a header, for people."""
    return " and ".join(map(repr, values)) or "absent"


def unmet_header(condition: HeaderMatch, message: Message) -> str:
    """Why a header does not meet a condition, for people."""
    verb = "must not be" if condition.invert else "must be"
    return f"header {condition.name} {verb} {wanted(condition.match)}, it is {shown(header_values(condition.name, message))}"
