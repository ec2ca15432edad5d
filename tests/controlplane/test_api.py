"""The API over a real port: who may ask, what is answered, and that nothing happens by halves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from meshlib_control.serve import ControlPlane
from tests.support.control import REVIEWS_V1, SUBSETS, TYPO, asking, running


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
async def api(plane: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(plane) as client:
        yield client


async def apply(api: httpx.AsyncClient, text: str, **more: object) -> httpx.Response:
    return await api.post("/v1/apply", json={"documents": text, "file": "reviews.yaml", **more})


async def names(api: httpx.AsyncClient) -> list[str]:
    items = (await api.get("/v1/objects")).json()["items"]
    return [f"{item['kind']}/{item['metadata']['name']}" for item in items]


async def test_readiness_asks_for_no_credential(plane):
    """A supervisor may look."""
    async with asking(plane, token="") as stranger:
        assert (await stranger.get("/ready")).json() == {"ready": True}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/objects"),
        ("POST", "/v1/apply"),
        ("DELETE", "/v1/objects/VirtualService/default/reviews"),
        ("GET", "/v1/analyze"),
        ("GET", "/v1/proxies"),
        ("POST", "/v1/explain"),
        ("POST", "/v1/authz"),
        ("POST", "/v1/tokens"),
        ("GET", "/v1/version"),
        ("GET", "/"),
        ("GET", "/nothing-here"),
        ("GET", "//ready"),
        ("GET", "/ready/"),
    ],
)
async def test_everything_else_asks_for_a_credential(plane, method, path):
    """Also what does not exist: a stranger learns nothing."""
    for token in ("", "wrong"):
        async with asking(plane, token=token) as stranger:
            answer = await stranger.request(method, path)
            assert answer.status_code == 401
            assert "admin.token" in answer.json()["error"]
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_apply_creates_configures_and_leaves_unchanged(api):
    """kubectl's three words."""
    first = await apply(api, REVIEWS_V1)
    again = await apply(api, REVIEWS_V1)
    changed = await apply(api, REVIEWS_V1.replace("subset: v1", "subset: v2"))
    actions = [answer.json()["changes"][0]["action"] for answer in (first, again, changed)]
    assert actions == ["created", "unchanged", "configured"]
    assert first.json()["changes"][0]["resource"] == "virtualservice.networking.istio.io/reviews"


async def test_an_error_is_answered_with_file_line_field_and_suggestion(api):
    """What an editor needs to jump there."""
    answer = await apply(api, TYPO)
    assert answer.status_code == 422
    problem = answer.json()
    assert (problem["file"], problem["line"]) == ("reviews.yaml", 12)
    assert problem["field"] == "spec.http[0].route[0].destination.subsett"
    assert "subset" in problem["suggestion"]


async def test_one_wrong_document_changes_nothing(api):
    """All or nothing, whatever the order."""
    answer = await apply(api, f"{SUBSETS}---\n{TYPO}")
    assert answer.status_code == 422
    assert await names(api) == []


async def test_every_wrong_document_is_told_at_once(api):
    """One round of corrections instead of three."""
    answer = await api.post(
        "/v1/apply",
        json={"files": [{"file": "a.yaml", "documents": TYPO}, {"file": "b.yaml", "documents": "a: [1"}]},
    )
    assert [problem["file"] for problem in answer.json()["errors"]] == ["a.yaml", "b.yaml"]


async def test_a_dry_run_tells_and_changes_nothing(api):
    """The same answer, no effect."""
    answer = await apply(api, REVIEWS_V1, dryRun=True)
    assert answer.json()["changes"][0]["action"] == "created"
    assert await names(api) == []


async def test_a_document_without_namespace_gets_the_one_asked_for(api):
    """As kubectl's -n."""
    await apply(api, REVIEWS_V1, namespace="shop")
    found = (await api.get("/v1/objects", params={"namespace": "shop", "kind": "VirtualService"})).json()["items"]
    assert [item["metadata"]["namespace"] for item in found] == ["shop"]
    assert (await api.get("/v1/objects", params={"namespace": "default"})).json()["items"] == []


async def test_an_object_is_shown_with_its_origin_and_conditions(api):
    """Where it came from, and what became of it."""
    await apply(api, REVIEWS_V1)
    (item,) = (await api.get("/v1/objects", params={"name": "reviews"})).json()["items"]
    assert item["spec"]["hosts"] == ["reviews"]
    assert item["status"]["origin"]["file"] == "reviews.yaml"
    assert {entry["type"] for entry in item["status"]["conditions"]} == {"Accepted", "Effective", "Healthy"}
    assert item["metadata"]["resourceVersion"]


async def test_a_reference_to_nothing_is_found_by_analyze_and_shown_in_the_status(api):
    """The subset is not declared: IST0101."""
    await apply(api, REVIEWS_V1)
    findings = (await api.get("/v1/analyze")).json()["findings"]
    assert "IST0101" in {finding["code"] for finding in findings}
    (item,) = (await api.get("/v1/objects")).json()["items"]
    assert [entry["status"] for entry in item["status"]["conditions"] if entry["type"] == "Healthy"] == ["False"]


async def test_what_is_not_honoured_yet_is_said_when_it_is_applied(api):
    """Nothing is ignored silently."""
    answer = await apply(api, REVIEWS_V1.replace("  - route:", "  - mirror: {host: ratings}\n    route:"))
    (finding,) = answer.json()["findings"]
    assert finding["code"] == "MSH0001"
    assert "mirror" in finding["field"]


async def test_delete_removes_an_object(api):
    """And says its name."""
    await apply(api, REVIEWS_V1)
    answer = await api.delete("/v1/objects/VirtualService/default/reviews")
    assert answer.json() == {"deleted": "virtualservice.networking.istio.io/reviews"}
    assert await names(api) == []


async def test_deleting_what_is_not_there_is_not_found(api):
    """404 with the name."""
    answer = await api.delete("/v1/objects/VirtualService/default/reviews")
    assert (answer.status_code, answer.json()["error"]) == (404, "there is no VirtualService default/reviews")


async def test_a_token_can_be_made(api):
    """With its end, so that scripts can plan."""
    answer = await api.post("/v1/tokens", json={"serviceAccount": "bookinfo-reviews", "lifetimeSeconds": 60})
    assert answer.json()["token"].count(".") == 2
    assert answer.json()["expires"].endswith("Z")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/apply", b"{", "not as expected"),
        ("/v1/apply", b"\xff\xfe", "not as expected"),
        ("/v1/apply", b'{"documents": 7}', "$.documents"),
        ("/v1/apply", b'{"document": ""}', "document"),
        ("/v1/tokens", b"{}", "serviceAccount"),
        ("/v1/tokens", b'{"serviceAccount": "a/b"}', "service account name"),
        ("/v1/tokens", b'{"serviceAccount": "a", "lifetimeSeconds": 0}', "24h"),
        ("/v1/explain", b'{"url": "ftp://reviews"}', "http://reviews:9080/reviews/0"),
        ("/v1/explain", b'{"url": "https://reviews"}', "http requests"),
    ],
)
async def test_a_wrong_body_is_a_bad_request_that_says_what(api, path, body, words):
    """400 with the path of the mistake."""
    answer = await api.post(path, content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


async def test_a_body_has_a_limit_whether_announced_or_not(api):
    """8 MiB: memory is not a stranger's to fill, nor a mistaken script's."""
    announced = await api.post("/v1/apply", content=b"x" * (8 * 1024 * 1024 + 1))

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"x" * 1024 * 1024

    streamed = await api.post("/v1/apply", content=endless())
    assert (announced.status_code, streamed.status_code) == (413, 413)


async def test_another_host_name_is_refused_on_loopback(plane, api):
    """DNS rebinding: a web page's own name that resolves to 127.0.0.1 gets nowhere, even with a credential."""
    for host in ("evil.example", f"evil.example:{plane.api.port}", "", "127.0.0.1.evil.example", "[::2]:80"):
        assert (await api.get("/v1/version", headers={"host": host})).status_code == 421
    for host in ("localhost", f"LOCALHOST:{plane.api.port}", "127.0.0.1", "[::1]:80"):
        assert (await api.get("/v1/version", headers={"host": host})).status_code == 200


async def test_unknown_paths_and_methods_are_told_in_json(api):
    """Also errors of the framework have our shape."""
    assert (await api.get("/v2/apply")).json()["error"] == "there is nothing at /v2/apply"
    answer = await api.get("/v1/apply")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "GET is not possible" in answer.json()["error"]


async def test_applies_at_the_same_time_are_each_whole(api):
    """Twenty at once: twenty objects, twenty different revisions."""
    texts = [REVIEWS_V1.replace("name: reviews", f"name: reviews-{number}") for number in range(20)]
    answers = await asyncio.gather(*(apply(api, text) for text in texts))
    assert {answer.status_code for answer in answers} == {200}
    items = (await api.get("/v1/objects")).json()["items"]
    assert len({item["metadata"]["resourceVersion"] for item in items}) == 20


async def test_an_author_is_kept_in_the_history(plane, api):
    """Who changed it is answered later."""
    await apply(api, REVIEWS_V1, author="alice@laptop")
    history = (await api.get("/v1/history", params={"kind": "VirtualService", "name": "reviews"})).json()["items"]
    assert [entry["author"] for entry in history] == ["admin (alice@laptop)"]
