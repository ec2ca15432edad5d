"""A disagreement is made small without being lost."""

from __future__ import annotations

from collections.abc import Sequence

from tests.conformance.cases import Asked, Case, document
from tests.conformance.shrink import smallest, valid

ENTRY = document(
    "ServiceEntry",
    "se-@a",
    {
        "hosts": ["@a.default.svc.cluster.local"],
        "resolution": "STATIC",
        "ports": [{"number": 9080, "name": "http", "protocol": "HTTP"}],
        "endpoints": [{"address": "127.0.0.1", "ports": {"http": "#0"}}, {"address": "127.0.0.1", "ports": {"http": "#1"}}],
    },
)
ROUTES = document(
    "VirtualService",
    "vs-@a",
    {
        "hosts": ["@a"],
        "http": [
            {"match": [{"uri": {"prefix": "/a"}, "headers": {"x": {}}}], "route": [{"destination": {"host": "@a"}}]},
            {"timeout": "3s", "route": [{"destination": {"host": "@a"}}]},
        ],
    },
)
ASKED = Asked("PUT", 9080, "@a:9080", "/abc?k", (("x", "1"), ("y", "2")), "503|200", 5)


async def test_only_what_matters_is_left() -> None:
    """Here: the header `x` and a route that asks for it."""

    async def still(cases: Sequence[Case]) -> list[bool]:
        return [case.requests[0].header("x") is not None and '"headers": {"x"' in text(case) for case in cases]

    def text(case: Case) -> str:
        import json

        return json.dumps(case.objects)

    found = await smallest(Case((ENTRY, ROUTES), (ASKED,)), still)
    (routes,) = found.objects
    assert routes["spec"]["http"] == [{"match": [{"headers": {"x": {}}}], "route": [{"destination": {"host": "@a"}}]}]
    assert found.requests == (Asked("GET", 9080, "@a:9080", "/", (("x", "1"),)),)


def test_what_istio_refuses_is_no_candidate() -> None:
    """A rule without a destination cannot be applied."""
    assert valid(Case((ENTRY, ROUTES), (ASKED,)))
    assert not valid(Case((document("VirtualService", "vs-@a", {"hosts": ["@a"], "http": [{"name": "r"}]}),), (ASKED,)))
