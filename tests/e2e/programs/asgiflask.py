"""The Flask service under an ASGI worker."""

from __future__ import annotations

from a2wsgi import WSGIMiddleware
from flaskapp import app as flask

app = WSGIMiddleware(flask)
