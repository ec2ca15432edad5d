"""An ordinary Flask service in front of httpbin, or of TARGET."""

from __future__ import annotations

import os

import requests
from flask import Flask

TARGET = os.environ.get("TARGET", "http://httpbin:8000/relayed")

app = Flask(__name__)
http = requests.Session()


@app.get("/relay")
def relay() -> object:
    """What httpbin says, or why it did not."""
    try:
        return http.get(TARGET, timeout=5).json()
    except requests.RequestException as error:
        return {"error": str(error), "notes": getattr(error, "__notes__", [])}, 502
