"""The conditions of a route: xDS's matchers -> `meshlib.config.model`. Part of `decode`, and under its rules."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from meshlib.config.model import HeaderMatch, MatchKind, Pattern, QueryMatch, RouteMatch, StringMatch
from meshlib.errors import ConfigurationError
from meshlib.facts import ascii_lower

_UNSUPPORTED = ("runtime_fraction", "grpc", "tls_context")

# Envoy's limit for program size does not exist here; RE2 itself is linear in the text, so only absurd patterns are refused.
LONGEST_REGEX = 10_000


def route_match(match: Any, place: str) -> RouteMatch:
    """All conditions of one route. Raises ConfigurationError for those we cannot obey."""
    for name in _UNSUPPORTED:
        if match.HasField(name):
            raise ConfigurationError("this condition is not supported", field=f"{place}.{name}")
    if match.dynamic_metadata or match.filter_state:
        raise ConfigurationError("conditions on metadata are not supported", field=f"{place}.dynamic_metadata")
    return RouteMatch(
        path=_path(match, place),
        headers=tuple(header_match(one, f"{place}.headers[{index}]") for index, one in enumerate(match.headers)),
        query=tuple(
            query_match(one, f"{place}.query_parameters[{index}]") for index, one in enumerate(match.query_parameters)
        ),
    )


def _path(match: Any, place: str) -> StringMatch:
    ignore_case = match.HasField("case_sensitive") and not match.case_sensitive.value
    match match.WhichOneof("path_specifier"):
        case "prefix":
            return _plain(MatchKind.PREFIX, match.prefix, ignore_case)
        case "path":
            return _plain(MatchKind.EXACT, match.path, ignore_case)
        case "safe_regex":
            return _regex(match.safe_regex.regex, f"{place}.safe_regex")
        case "path_separated_prefix":
            return _separated_prefix(match.path_separated_prefix, ignore_case, f"{place}.path_separated_prefix")
        case other:
            raise ConfigurationError(
                f"{other or 'no path'}: use prefix, path, safe_regex or path_separated_prefix", field=place
            )


def _separated_prefix(prefix: str, ignore_case: bool, place: str) -> StringMatch:
    """Envoy: `/api` matches `/api` and `/api/x`, not `/apix`."""
    flags = "(?i)" if ignore_case else ""
    return _regex(f"{flags}{_escaped(prefix)}(?s:/.*)?", place)


def _escaped(text: str) -> str:
    return "".join(char if char.isalnum() or char in "/_-" else f"\\{char}" if char.isascii() else char for char in text)


def header_match(header: Any, place: str) -> HeaderMatch:
    """One condition on a header, of a request or of a response."""
    if not header.name:
        raise ConfigurationError("a header condition needs a name", field=f"{place}.name")
    match, negated = _header_condition(header, place)
    return HeaderMatch(
        name=header.name.lower(),
        match=match,
        invert=bool(header.invert_match) != negated,
        missing_as_empty=bool(header.treat_missing_header_as_empty),
    )


_OLD_FORMS = {
    "exact_match": MatchKind.EXACT,
    "prefix_match": MatchKind.PREFIX,
    "suffix_match": MatchKind.SUFFIX,
    "contains_match": MatchKind.CONTAINS,
}


def _header_condition(header: Any, place: str) -> tuple[StringMatch, bool]:
    """The comparison, and whether it is negated by `present_match: false`."""
    form = header.WhichOneof("header_match_specifier")
    if form is None:  # Envoy: "if header_match_specifier is not set, ... the header is matched by presence"
        return StringMatch(MatchKind.PRESENT), False
    if form == "present_match":
        return StringMatch(MatchKind.PRESENT), not header.present_match
    if form == "string_match":
        return string_match(header.string_match, f"{place}.string_match"), False
    if form == "safe_regex_match":
        return _regex(header.safe_regex_match.regex, f"{place}.safe_regex_match"), False
    if form in _OLD_FORMS:
        return _plain(_OLD_FORMS[form], getattr(header, form), ignore_case=False), False
    raise ConfigurationError(f"{form} is not supported", field=place)


def query_match(query: Any, place: str) -> QueryMatch:
    """One condition on a query parameter."""
    if not query.name:
        raise ConfigurationError("a query condition needs a name", field=f"{place}.name")
    form = query.WhichOneof("query_parameter_match_specifier")
    if form == "present_match" and not query.present_match:
        raise ConfigurationError("present_match: false is not supported", field=f"{place}.present_match")
    if form == "string_match":
        return QueryMatch(query.name, string_match(query.string_match, f"{place}.string_match"))
    return QueryMatch(query.name, StringMatch(MatchKind.PRESENT))


_STRING_FORMS = {
    "exact": MatchKind.EXACT,
    "prefix": MatchKind.PREFIX,
    "suffix": MatchKind.SUFFIX,
    "contains": MatchKind.CONTAINS,
}


def string_match(matcher: Any, place: str) -> StringMatch:
    """One comparison of a text (type.matcher.v3.StringMatcher)."""
    form = matcher.WhichOneof("match_pattern")
    if form == "safe_regex":
        return _regex(matcher.safe_regex.regex, f"{place}.safe_regex")
    if form not in _STRING_FORMS:
        raise ConfigurationError(f"{form or 'no pattern'}: use exact, prefix, suffix, contains or safe_regex", field=place)
    return _plain(_STRING_FORMS[form], getattr(matcher, form), matcher.ignore_case)


def _plain(kind: MatchKind, value: str, ignore_case: bool) -> StringMatch:
    # Envoy compares bytes: what was written in UTF-8 becomes the latin-1 text in which facts hold the bytes of a request.
    text = value if value.isascii() else value.encode().decode("latin-1")
    return StringMatch(kind, ascii_lower(text) if ignore_case else text, ignore_case)


def _regex(text: str, place: str) -> StringMatch:
    if not text or len(text) > LONGEST_REGEX:
        raise ConfigurationError(f"a regular expression has 1 to {LONGEST_REGEX} characters", field=place)
    try:
        return StringMatch(MatchKind.REGEX, text, pattern=compiled(text))
    except ValueError as error:
        raise ConfigurationError(f"not a regular expression of RE2: {error}", field=place) from error


@lru_cache(maxsize=1024)  # the same expressions come again with every change of a route
def compiled(text: str) -> Pattern:
    """A regular expression of RE2 that reads bytes. Raises ValueError with its complaint."""
    import re2  # here, because most meshes have no regular expression and the import costs milliseconds

    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1  # Envoy's build reads bytes: `.` is one of them, whatever they stand for
    try:
        found: Pattern = re2.compile(text.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        raise ValueError(reason.decode() if isinstance(reason, bytes) else str(reason)) from error
    return found
