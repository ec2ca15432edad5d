"""Thread pools carry the context of the request that gives them work: asyncio.to_thread does so, executors do not."""

from __future__ import annotations

from contextvars import copy_context
from functools import wraps
from types import ModuleType
from typing import Any

from meshlib.telemetry.context import current

_MARK = "meshlib"


def carry_context(module: ModuleType) -> None:
    """Patch `concurrent.futures.thread`: work submitted while a request is served runs in a copy of its context.

    Outside of requests nothing changes.
    """
    original = module.ThreadPoolExecutor.submit
    if _MARK in original.__dict__:
        return

    @wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        if current() is None:
            return original(self, fn, *args, **kwargs)
        return original(self, copy_context().run, fn, *args, **kwargs)

    submit.__dict__[_MARK] = True
    module.ThreadPoolExecutor.submit = submit
