"""Looking at something again and again while a context lasts: files of others, steps that come due."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from .errors import CannotStart

PERIOD = 1.0  # seconds between looks


@contextlib.asynccontextmanager
async def looking(look: Callable[[], object], trouble: str, log: logging.Logger) -> AsyncIterator[None]:
    """Call `look` every PERIOD seconds.

    Args:
        look: may raise CannotStart, which is told when it is another one than the last time.
        trouble: begins what is told then: what follows from it.
    """
    task = asyncio.create_task(_look(look, trouble, log))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _look(look: Callable[[], object], trouble: str, log: logging.Logger) -> None:
    told = ""
    while True:
        await asyncio.sleep(PERIOD)
        try:
            look()
            told = ""
        except CannotStart as error:
            if str(error) != told:
                log.error("%s: %s", trouble, error)
            told = str(error)
        except Exception:  # a fault of ours must not end the looking: certificates run out
            log.exception("%s", trouble)
