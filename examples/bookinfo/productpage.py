"""Bookinfo's page: asks details and reviews, and shows what they say. Ordinary Flask and requests; it knows of no mesh.

The only header it sets is its own: who is signed in (`end-user`). Trace headers, and handing `end-user` on from reviews to
ratings, are the mesh's work.
"""

from __future__ import annotations

import os
import secrets
from typing import Any

import requests
from flask import Flask, Response, abort, jsonify, redirect, render_template, request, session

DETAILS = os.environ.get("DETAILS_URL", "http://details:9080/details")
REVIEWS = os.environ.get("REVIEWS_URL", "http://reviews:9080/reviews")
RATINGS = os.environ.get("RATINGS_URL", "http://ratings:9080/ratings")
TIMEOUT = 3.0  # seconds, for one try
REVIEWS_TRIES = 2

PRODUCTS = [
    {
        "id": 0,
        "title": "The Comedy of Errors",
        "descriptionHtml": (
            "Two pairs of identical twins, parted by a shipwreck, meet again in Ephesus without knowing it. Masters beat the "
            "wrong servants, wives dine with the wrong husbands, and a gold chain reaches the wrong neck: one of "
            '<a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors">Shakespeare\'s earliest and shortest plays</a>.'
        ),
    }
]

app = Flask(__name__)
app.secret_key = os.environ.get("PRODUCTPAGE_SECRET") or secrets.token_hex(16)
http = requests.Session()

Answer = tuple[int, dict[str, Any]]


@app.get("/")
def index() -> Any:
    """The front door leads to the only book."""
    return redirect("/productpage")


@app.get("/health")
def health() -> str:
    """Liveness, for whoever starts this program."""
    return "Product page is healthy"


@app.post("/login")
def login() -> Any:
    """Any name signs in: this is a demonstration of routing, not of passwords."""
    session["user"] = request.form.get("username", "")
    return redirect("/productpage")


@app.route("/logout", methods=["GET", "POST"])
def logout() -> Any:
    """Forget the name."""
    session.pop("user", None)
    return redirect("/productpage")


@app.get("/productpage")
def productpage() -> str:
    """The page."""
    details_status, details = ask_details(0)
    reviews_status, reviews = ask_reviews(0)
    return render_template(
        "productpage.html",
        product=PRODUCTS[0],
        user=session.get("user", ""),
        details_status=details_status,
        details=details,
        reviews_status=reviews_status,
        reviews=reviews,
    )


@app.get("/api/v1/products")
def products() -> Response:
    """All books."""
    return jsonify(PRODUCTS)


@app.get("/api/v1/products/<int:product>")
def product_details(product: int) -> tuple[Response, int]:
    """What details says of a book."""
    return answer(ask_details(known(product)))


@app.get("/api/v1/products/<int:product>/reviews")
def product_reviews(product: int) -> tuple[Response, int]:
    """What reviews says of a book."""
    return answer(ask_reviews(known(product)))


@app.get("/api/v1/products/<int:product>/ratings")
def product_ratings(product: int) -> tuple[Response, int]:
    """What ratings says of a book."""
    return answer(ask(f"{RATINGS}/{known(product)}", "ratings"))


def known(product: int) -> int:
    """The product's number. Aborts with 404 if there is no such book."""
    if not 0 <= product < len(PRODUCTS):
        abort(404)
    return product


def answer(result: Answer) -> tuple[Response, int]:
    """A service's answer, handed on as JSON with its status."""
    status, body = result
    return jsonify(body), status


def ask_details(product: int) -> Answer:
    """One try."""
    return ask(f"{DETAILS}/{product}", "details")


def ask_reviews(product: int) -> Answer:
    """Two tries, as in Istio's Bookinfo: its fault injection task depends on it."""
    for _ in range(REVIEWS_TRIES - 1):
        result = ask(f"{REVIEWS}/{product}", "reviews")
        if result[0] == 200:
            return result
    return ask(f"{REVIEWS}/{product}", "reviews")


def ask(url: str, what: str) -> Answer:
    """Status and JSON of a service, or the status and the sentence for the reader if it failed."""
    user = session.get("user")
    try:
        response = http.get(url, headers={"end-user": user} if user else {}, timeout=TIMEOUT)
    except requests.RequestException:
        app.logger.exception("no answer from %s", what)
        return 500, unavailable(what)
    return (200, response.json()) if response.ok else (response.status_code, unavailable(what))


def unavailable(what: str) -> dict[str, str]:
    """The sentence for the reader."""
    return {"error": f"Sorry, product {what} are currently unavailable for this book."}
