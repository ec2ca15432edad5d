"""Runs the service: a gRPC port, the folder followed, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from meshlib.config.messages import message
from meshlib.errors import MeshError
from meshlib_control.errors import CannotStart
from meshlib_control.rate_limit_service.limits import Limits, read
from meshlib_control.rate_limit_service.service import SERVICE, BadRequest, OnFailure, RateLimitService, Unavailable
from meshlib_control.rate_limit_service.store import MemoryStore, RedisStore, Store
from meshlib_control.sources.files import watch_changes

_log = logging.getLogger(__name__)
_LAST_CALLS = 1.0  # seconds that calls under way have when the service ends
_AGAIN = 5.0  # seconds until a watch that failed is tried again


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How the service runs.

    Args:
        config: folder of YAML.
        address: `host:port`; port 0: any free one.
        redis: an address as in `RedisStore`; empty: counts are kept in this process.
    """

    config: Path
    address: str
    redis: str = ""
    on_failure: OnFailure = OnFailure.ERROR


async def serve(options: ServiceOptions, say: Callable[[str], None]) -> None:
    """Run until SIGINT or SIGTERM.

    Raises:
        CannotStart: the folder has a mistake, the address is taken, or Redis is not an address.
    """
    async with running(options) as port:
        say(f"rate limit service on port {port}, limits from {options.config}, counts in {options.redis or 'memory'}")
        await _signalled()


@contextlib.asynccontextmanager
async def running(options: ServiceOptions) -> AsyncIterator[int]:
    """The service meanwhile; gives its port. Raises as `serve`."""
    store = _store(options.redis)
    service = RateLimitService(_first(options.config), store, options.on_failure)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handlers(service),))
    port = _bound(server, options.address)
    await server.start()
    follower = asyncio.create_task(_follow(options.config, service), name="rate limits")
    try:
        yield port
    finally:
        follower.cancel()
        await server.stop(_LAST_CALLS)
        await store.close()


def _store(redis: str) -> Store:
    if not redis:
        return MemoryStore()
    try:
        return RedisStore(redis)
    except ImportError as error:
        raise CannotStart("the package redis is not installed", "pip install 'meshlib-sdk[redis]'") from error
    except ValueError as error:
        raise CannotStart(f"--redis {redis}: {error}", "write redis://HOST:PORT/0") from error


def _first(folder: Path) -> Limits:
    try:
        return read(folder)
    except MeshError as error:
        raise CannotStart(str(error), f"mend it in {folder}") from error


def _bound(server: Any, address: str) -> int:
    try:
        return int(server.add_insecure_port(address))
    except RuntimeError as error:
        raise CannotStart(f"cannot listen on {address}", "choose another one with --address HOST:PORT") from error


def _handlers(service: RateLimitService) -> Any:
    async def should_rate_limit(request: Any, context: Any) -> Any:
        try:
            return await service.judge(request)
        except BadRequest as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Unavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    handler = grpc.unary_unary_rpc_method_handler(
        should_rate_limit,
        request_deserializer=message("envoy.service.ratelimit.v3.RateLimitRequest").FromString,
        response_serializer=message("envoy.service.ratelimit.v3.RateLimitResponse").SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"ShouldRateLimit": handler})


async def _follow(folder: Path, service: RateLimitService) -> None:
    """A folder with a mistake changes nothing: the last good limits stay in force."""
    told = ""
    while True:
        try:
            async for _ in watch_changes(folder):
                told = _refresh(folder, service, told)
        except (OSError, RuntimeError) as error:  # the folder is not there, or the system has no watches left
            _log.error("changes of %s cannot be followed: %s", folder, error)
        await asyncio.sleep(_AGAIN)
        told = _refresh(folder, service, told)


def _refresh(folder: Path, service: RateLimitService, told: str) -> str:
    """What is wrong in the folder, empty for nothing; a mistake that was told is not told again."""
    try:
        found = read(folder)
    except MeshError as error:
        if str(error) != told:
            _log.error("the limits stay as they were: %s", error)
        return str(error)
    if found != service.limits:
        service.limits = found
        _log.info("limits from %s", folder)
    return ""


async def _signalled() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
