"""Whether a request meets a route's conditions (Envoy's config.route.v3.RouteMatch); `meshlib.match` has the rules."""

from __future__ import annotations

from meshlib.config.model import HeaderMatch, QueryMatch, RouteMatch, StringMatch
from meshlib.facts import Request
from meshlib.match import header_matches, query_matches, query_parameters, text_matches

Condition = StringMatch | HeaderMatch | QueryMatch


def unmet(match: RouteMatch, request: Request, path: str) -> Condition | None:
    """The first condition that the request does not meet; None: it meets all, so the route is the one.

    Args:
        path: `bare_path(request.path)`, cut off once for all routes.
    """
    if not text_matches(match.path, path):
        return match.path
    for condition in match.headers:
        if not header_matches(condition, request):
            return condition
    return _unmet_query(match.query, request) if match.query else None


def _unmet_query(conditions: tuple[QueryMatch, ...], request: Request) -> QueryMatch | None:
    parameters = query_parameters(request.path)
    return next((condition for condition in conditions if not query_matches(condition, parameters)), None)
