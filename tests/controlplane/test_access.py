"""The API with other credentials than the admin token: roles decide, and the history tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from meshlib.errors import CredentialError
from meshlib_control.access.credentials import Credentials
from meshlib_control.serve import ControlPlane, utc_now
from meshlib_control.tokens import open_issuer
from tests.support.control import REVIEWS_V1, asking, running

EDITORS = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: editors, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ROLE}
subjects:
- {kind: User, name: alice}
- {kind: ServiceAccount, name: ci}
"""


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
async def admin(plane: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    async with asking(plane) as client:
        yield client


async def token(admin: httpx.AsyncClient, **wish: object) -> str:
    answer = await admin.post("/v1/tokens", json=wish)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


async def grant(admin: httpx.AsyncClient, role: str) -> None:
    assert (await apply(admin, EDITORS.replace("ROLE", role))).status_code == 200


async def apply(api: httpx.AsyncClient, text: str, namespace: str = "shop") -> httpx.Response:
    return await api.post("/v1/apply", json={"documents": text, "file": "reviews.yaml", "namespace": namespace})


async def shown(api: httpx.AsyncClient) -> set[str]:
    items = (await api.get("/v1/objects")).json()["items"]
    return {f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}" for item in items}


ROUTES = [
    ("POST", "/v1/apply", {"documents": REVIEWS_V1}),
    ("POST", "/v1/explain", {"url": "http://reviews:9080/"}),
    ("POST", "/v1/authz", {"url": "http://reviews:9080/"}),
    ("POST", "/v1/tokens", {"serviceAccount": "reviews"}),
    ("POST", "/v1/tokens", {"serviceAccount": "reviews", "use": "api"}),
    ("POST", "/v1/tokens", {"user": "root", "groups": ["dev"]}),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_a_user_without_a_role_can_do_nothing(plane, admin, method, path, body):
    """A credential alone opens no door."""
    async with asking(plane, await token(admin, user="alice")) as alice:
        answer = await alice.request(method, path, json=body)
    assert answer.status_code == 403
    assert 'User "alice" cannot create' in answer.json()["error"]


async def test_a_user_without_a_role_sees_nothing(plane, admin):
    """Not even that it is there."""
    await apply(admin, REVIEWS_V1)
    async with asking(plane, await token(admin, user="alice")) as alice:
        assert await shown(alice) == set()
        assert (await alice.get("/v1/analyze")).json()["findings"] == []
        assert (await alice.get("/v1/proxies")).json()["items"] == []
        assert (await alice.get("/v1/history")).json()["items"] == []
        assert (await alice.delete("/v1/objects/VirtualService/shop/reviews")).status_code == 404


@pytest.mark.parametrize("wish", [{"user": "alice"}, {"serviceAccount": "ci", "namespace": "shop", "use": "api"}])
async def test_an_editor_changes_its_own_namespace(plane, admin, wish):
    """A person, or a program with a service account."""
    await grant(admin, "edit")
    await apply(admin, REVIEWS_V1, namespace="default")
    async with asking(plane, await token(admin, **wish)) as editor:
        assert (await apply(editor, REVIEWS_V1)).status_code == 200
        assert (await apply(editor, REVIEWS_V1, namespace="default")).status_code == 403
        assert await shown(editor) == {"shop/reviews"}
        assert (await editor.delete("/v1/objects/VirtualService/shop/reviews")).status_code == 200


async def test_one_forbidden_document_changes_nothing(plane, admin):
    """All or nothing, here too."""
    await grant(admin, "edit")
    elsewhere = REVIEWS_V1.replace("name: reviews", "name: reviews\n  namespace: default")
    async with asking(plane, await token(admin, user="alice")) as alice:
        assert (await apply(alice, f"{REVIEWS_V1}---\n{elsewhere}")).status_code == 403
        assert await shown(alice) == set()


async def test_a_viewer_looks_and_changes_nothing(plane, admin):
    """And cannot make tokens."""
    await grant(admin, "view")
    await apply(admin, REVIEWS_V1)
    async with asking(plane, await token(admin, user="alice")) as alice:
        assert await shown(alice) == {"shop/reviews"}
        assert (await apply(alice, REVIEWS_V1)).status_code == 403
        assert (await alice.post("/v1/tokens", json={"serviceAccount": "ci", "namespace": "shop"})).status_code == 403


async def test_an_admin_of_a_namespace_hands_out_its_tokens_only(plane, admin):
    """Kubernetes' serviceaccounts/token."""
    await grant(admin, "admin")
    async with asking(plane, await token(admin, user="alice")) as alice:
        assert (await alice.post("/v1/tokens", json={"serviceAccount": "reviews", "namespace": "shop"})).status_code == 200
        assert (await alice.post("/v1/tokens", json={"serviceAccount": "reviews"})).status_code == 403
        assert (await alice.post("/v1/tokens", json={"user": "mallory", "groups": ["ops"]})).status_code == 403


async def test_a_token_is_good_for_its_own_use_only(plane, admin):
    """A join token asks nothing of the API."""
    join = await token(admin, serviceAccount="ci", namespace="shop")
    async with asking(plane, join) as workload:
        answer = await workload.get("/v1/objects")
    assert answer.status_code == 401
    assert "audience" in answer.json()["error"]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer secre", "Bearer secret2", "Bearer sécret", "Basic secret"])
def test_a_wrong_credential_says_where_the_right_ones_are(tmp_path, header):
    """The admin token's file, or the command that makes a user's."""
    credentials = Credentials("secret", open_issuer(tmp_path), utc_now)
    assert credentials.subject("Bearer secret").name == "admin"
    with pytest.raises(CredentialError, match=r"admin\.token.*token create --user"):
        credentials.subject(header)


@pytest.mark.parametrize("name", ["system:masters", "a b", "", "x" * 129])
async def test_a_name_that_means_more_is_refused(admin, name):
    """Nobody becomes system:masters by being called so."""
    for wish in ({"user": name}, {"user": "alice", "groups": [name]}):
        assert (await admin.post("/v1/tokens", json=wish)).status_code == 400


async def test_the_history_has_every_change_every_token_and_every_refusal(plane, admin):
    """With author and revision, newest first."""
    await grant(admin, "edit")
    async with asking(plane, await token(admin, user="alice")) as alice:
        await apply(alice, REVIEWS_V1)
        await apply(alice, REVIEWS_V1, namespace="default")
        await alice.delete("/v1/objects/VirtualService/shop/reviews")
    items = (await admin.get("/v1/history")).json()["items"]
    assert [(item["author"], item["action"], item["kind"], item["revision"]) for item in items] == [
        ("alice", "deleted", "VirtualService", 3),
        ("alice", "refused", "virtualservices", 2),
        ("alice", "created", "VirtualService", 2),
        ("admin", "issued", "User", 1),
        ("admin", "created", "RoleBinding", 1),
    ]
    assert "eyJ" not in str(items)  # no token is written down


async def test_an_editor_sees_the_history_of_its_namespace(plane, admin):
    """And no tokens of others."""
    await grant(admin, "edit")
    await apply(admin, REVIEWS_V1)
    await apply(admin, REVIEWS_V1, namespace="default")
    async with asking(plane, await token(admin, user="alice")) as alice:
        items = (await alice.get("/v1/history", params={"kind": "VirtualService"})).json()["items"]
        everything = (await alice.get("/v1/history")).json()["items"]
    assert [item["namespace"] for item in items] == ["shop"]
    assert {item["kind"] for item in everything} == {"VirtualService"}


async def test_a_wrong_limit_is_refused(admin):
    """A sentence instead of a traceback."""
    answer = await admin.get("/v1/history", params={"limit": "many"})
    assert answer.status_code == 400
    assert "limit=many" in answer.json()["error"]


async def test_what_the_watched_folder_changes_is_in_the_history(tmp_path):
    """With the file as its author's place; nobody typed a command."""
    folder = tmp_path / "mesh"
    folder.mkdir()
    async with running(tmp_path, config=folder) as plane, asking(plane) as api:
        (folder / "reviews.yaml").write_text(REVIEWS_V1)
        assert await told(api) == ("created", "the watched folder", "reviews.yaml")
        (folder / "reviews.yaml").unlink()
        assert await told(api, 2) == ("deleted", "the watched folder", "reviews.yaml")


async def told(api: httpx.AsyncClient, lines: int = 1) -> tuple[str, str, str]:
    """The newest line of the history, once there are so many."""
    for _ in range(200):
        items = (await api.get("/v1/history")).json()["items"]
        if len(items) >= lines:
            return items[0]["action"], items[0]["author"], items[0]["file"]
        await asyncio.sleep(0.05)
    raise AssertionError(f"the history has no {lines} lines after 10 s")
