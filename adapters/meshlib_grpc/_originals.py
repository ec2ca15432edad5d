"""grpc's own functions, also where `meshlib run` has put ours in their place: what is outside the mesh is theirs."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

ORIGINAL = "meshlib_original"
"""Attribute of our functions, which `functools.wraps` hands on to those who wrap them."""


def insecure_channel(*args: Any, **kwargs: Any) -> grpc.Channel:
    """As `grpc.insecure_channel`."""
    return _own(grpc.insecure_channel)(*args, **kwargs)


def aio_insecure_channel(*args: Any, **kwargs: Any) -> grpc.aio.Channel:
    """As `grpc.aio.insecure_channel`."""
    return _own(grpc.aio.insecure_channel)(*args, **kwargs)


def _own(function: Any) -> Any:
    return getattr(function, ORIGINAL, function)
