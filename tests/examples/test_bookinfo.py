"""Bookinfo's programs by themselves: paths, form fields and JSON shapes are those of Istio's, so that either can stand in."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
from starlette.testclient import TestClient

FOLDER = Path(__file__).parents[2] / "examples" / "bookinfo"
Load = Callable[..., Any]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load("reviews", REVIEWS_VERSION="v2")` imports one of the programs afresh."""

    def fresh(name: str, **env: str) -> ModuleType:
        for variable, value in env.items():
            monkeypatch.setenv(variable, value)
        spec = importlib.util.spec_from_file_location(f"bookinfo_{name}", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return fresh


def test_details(load: Load) -> None:
    """The facts about a book."""
    client = TestClient(load("details").app)
    book = client.get("/details/0").json()
    assert (book["id"], book["author"], book["ISBN-10"]) == (0, "William Shakespeare", "1234567890")
    assert set(book) == {"id", "author", "year", "type", "pages", "publisher", "language", "ISBN-10", "ISBN-13"}
    assert client.get("/health").json() == {"status": "Details is healthy"}


def test_ratings_can_be_read_and_replaced(load: Load) -> None:
    """GET and POST /ratings/0."""
    client = TestClient(load("ratings").app)
    assert client.get("/ratings/0").json() == {"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}
    assert client.post("/ratings/0", json={"Reviewer1": 1, "Reviewer2": 2}).json()["ratings"]["Reviewer1"] == 1
    assert client.get("/ratings/0").json()["ratings"] == {"Reviewer1": 1, "Reviewer2": 2}


@pytest.mark.parametrize(("version", "color"), [("v2", "black"), ("v3", "red")])
def test_reviews_with_stars(load: Load, version: str, color: str) -> None:
    """`podname`, `clustername`, and each review with its stars in the version's colour."""
    module = load("reviews", REVIEWS_VERSION=version, HOSTNAME="reviews-x")

    async def ratings(product: int) -> dict[str, int]:
        return {"Reviewer1": 5, "Reviewer2": 4}

    module.ask_ratings = ratings
    page = TestClient(module.app).get("/reviews/0").json()
    assert (page["id"], page["podname"], set(page)) == ("0", "reviews-x", {"id", "podname", "clustername", "reviews"})
    assert [review["rating"] for review in page["reviews"]] == [{"stars": 5, "color": color}, {"stars": 4, "color": color}]


def test_reviews_without_stars(load: Load) -> None:
    """v1 asks nobody."""
    page = TestClient(load("reviews", REVIEWS_VERSION="v1").app).get("/reviews/0").json()
    assert [set(review) for review in page["reviews"]] == [{"reviewer", "text"}] * 2


def test_reviews_when_ratings_are_gone(load: Load) -> None:
    """Each review says so itself."""
    module = load("reviews", REVIEWS_VERSION="v2", RATINGS_URL="http://127.0.0.1:9/ratings")
    page = TestClient(module.app).get("/reviews/0").json()
    assert [review["rating"] for review in page["reviews"]] == [{"error": "Ratings service is currently unavailable"}] * 2


class Answers(requests.Session):
    """Stands for the other services: answers by the first part of the path, and remembers what it was asked."""

    def __init__(self, **bodies: Any) -> None:
        super().__init__()
        self.bodies = bodies
        self.asked: list[tuple[str, dict[str, str]]] = []

    def get(self, url: str | bytes, **options: Any) -> requests.Response:
        what = str(url).rsplit("/", 2)[-2]
        self.asked.append((what, options["headers"]))
        response = requests.Response()
        body = self.bodies.get(what)
        response.status_code = body if isinstance(body, int) else 200
        response._content = json.dumps(body).encode()
        if body is None:
            raise requests.ConnectionError(what)
        return response


DETAILS = {"type": "paperback", "pages": 200, "publisher": "P", "language": "E", "author": "W", "year": 1595}
REVIEWS = {"podname": "reviews-v2-x", "reviews": [{"reviewer": "R", "text": "T", "rating": {"stars": 4, "color": "black"}}]}


def test_the_page(load: Load) -> None:
    """Stars, and who served them."""
    module = load("productpage")
    module.http = Answers(details=DETAILS, reviews=REVIEWS)
    html = module.app.test_client().get("/productpage").text
    assert "★★★★☆" in html
    assert 'aria-label="4 of 5 stars, black"' in html
    assert "Reviews served by: <b" in html
    assert "reviews-v2-x" in html


def test_signing_in_sets_end_user(load: Load) -> None:
    """POST /login with `username`; /logout forgets it."""
    module = load("productpage")
    module.http = Answers(details=DETAILS, reviews=REVIEWS)
    client = module.app.test_client()
    assert client.post("/login", data={"username": "jason", "passwd": "x"}).status_code == 302
    assert "Signed in as <b>jason</b>" in client.get("/productpage").text
    client.get("/logout")
    client.get("/productpage")
    assert [headers for _, headers in module.http.asked] == [{"end-user": "jason"}] * 2 + [{}] * 2


def test_what_cannot_be_had_is_said(load: Load) -> None:
    """Reviews are asked for twice, details once; the sentences are those of Istio's page."""
    module = load("productpage")
    module.http = Answers(details=503)
    html = module.app.test_client().get("/productpage").text
    assert [what for what, _ in module.http.asked] == ["details", "reviews", "reviews"]
    for what in ("details", "reviews"):
        assert f"Error fetching product {what}!" in html
        assert f"Sorry, product {what} are currently unavailable for this book." in html


def test_the_api(load: Load) -> None:
    """Products, and what the services say of one, with their status."""
    module = load("productpage")
    module.http = Answers(details=DETAILS, reviews=500, ratings={"ratings": {}})
    client = module.app.test_client()
    assert [product["title"] for product in client.get("/api/v1/products").json] == ["The Comedy of Errors"]
    assert client.get("/api/v1/products/0").json == DETAILS
    assert client.get("/api/v1/products/0/reviews").status_code == 500
    assert client.get("/api/v1/products/0/ratings").json == {"ratings": {}}
    assert client.get("/api/v1/products/1").status_code == 404
    assert client.get("/health").text == "Product page is healthy"
