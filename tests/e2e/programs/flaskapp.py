"""An ordinary Flask service: its process id, and what httpbin sees when asked from here in four threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import requests
from flask import Flask, jsonify

app = Flask(__name__)


@app.get("/pid")
def pid() -> object:
    """Which worker this is."""
    return jsonify(pid=os.getpid())


@app.get("/ask")
def ask() -> object:
    """Four calls at the same time from four threads."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: requests.get(f"http://httpbin:8000/{n}", timeout=10).json(), range(4)))
    return jsonify(
        users=[answer["headers"].get("end-user", "") for answer in answers],
        clients=[answer["headers"].get("x-forwarded-client-cert", "") for answer in answers],
    )
