"""Rules of a VirtualService that no request can reach, because earlier rules take them all.

A match is covered by an earlier one if each condition of the earlier one follows from its own conditions. Where this cannot be
told (two different regular expressions), nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meshlib_control.analyze.finding import finding
from meshlib_control.kinds import StringMatch, VirtualService
from meshlib_control.kinds.virtual_service import HttpMatch, HttpRoute
from meshlib_control.mistakes import item
from meshlib_control.model import Finding, MeshObject, Severity

UNREACHABLE = "IST0130"
INEFFECTIVE = "IST0131"

_ANYTHING = HttpMatch()


def rules(found: MeshObject) -> Iterator[Finding]:
    """Rules, and single matches of rules, that earlier rules leave nothing for."""
    spec: VirtualService = found.spec
    earlier: list[tuple[str, HttpMatch]] = []
    for index, route in enumerate(spec.http):
        path, own = item("spec.http", index), _label(route, index)
        matches = route.match or (_ANYTHING,)
        covers = [next((label for label, other in earlier if covered(match, other)), "") for match in matches]
        if all(covers):
            reason = f"every request that could match goes to {' and '.join(dict.fromkeys(covers))} before"
            yield finding(
                UNREACHABLE, Severity.WARNING, found, path, f"{own} is not used: {reason}", "move it up, or remove it"
            )
        else:
            for number, cover in enumerate(covers):
                if cover:
                    message = f"Match {number} of {own} is not used: {cover} takes all of its requests"
                    yield finding(INEFFECTIVE, Severity.INFO, found, item(f"{path}.match", number), message)
        earlier += [(own, match) for match in matches]


def _label(route: HttpRoute, index: int) -> str:
    return f"rule {route.name}" if route.name else f"rule {index}"


def covered(match: HttpMatch, earlier: HttpMatch) -> bool:
    """Whether every request that fulfils `match` also fulfils `earlier`."""
    return (
        _uri_covered(match, earlier)
        and all(_implies(getattr(match, name), getattr(earlier, name)) for name in ("scheme", "method", "authority"))
        and _all_imply(match.headers, earlier.headers)
        and _all_imply(match.query_params, earlier.query_params)
        and earlier.without_headers.items() <= match.without_headers.items()
        and earlier.source_labels.items() <= match.source_labels.items()
        and earlier.source_namespace in {"", match.source_namespace}
        and earlier.port in {0, match.port}
        and (not earlier.gateways or (bool(match.gateways) and set(match.gateways) <= set(earlier.gateways)))
    )


def _uri_covered(match: HttpMatch, earlier: HttpMatch) -> bool:
    wider = earlier.uri
    if wider is None or wider.prefix in {"", "/"} or wider.regex == ".*" or wider == StringMatch():
        return True
    if match.uri is None or (match.ignore_uri_case and not earlier.ignore_uri_case):
        return False
    if earlier.ignore_uri_case:
        return _implies(_lower(match.uri), _lower(wider))
    return _implies(match.uri, wider)


def _lower(text: StringMatch) -> StringMatch:
    return StringMatch(
        exact=text.exact.lower() if text.exact is not None else None,
        prefix=text.prefix.lower() if text.prefix is not None else None,
        regex=text.regex,
    )


def _all_imply(narrow: Mapping[str, StringMatch], wide: Mapping[str, StringMatch]) -> bool:
    return all(name in narrow and _implies(narrow[name], text) for name, text in wide.items())


def _implies(narrow: StringMatch | None, wide: StringMatch | None) -> bool:
    if wide is None or narrow == wide:
        return True
    if narrow is None:
        return False
    if wide == StringMatch() or wide.regex in {"*", ".*"}:
        return True
    start = narrow.exact if narrow.exact is not None else narrow.prefix
    return wide.prefix is not None and start is not None and start.startswith(wide.prefix)
