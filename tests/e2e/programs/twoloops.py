"""One httpx.AsyncClient for each of two event loops in two threads, and one client used in both, one after the other."""

from __future__ import annotations

import asyncio
import threading

import httpx

URL = "http://httpbin:8000/loops"
failures: list[str] = []


async def calls(count: int) -> None:
    """Some calls at the same time."""
    async with httpx.AsyncClient() as client:
        responses = await asyncio.gather(*(client.get(URL) for _ in range(count)))
    failures.extend(response.text for response in responses if "x-forwarded-client-cert" not in response.text)


def loop() -> None:
    """An event loop of its own."""
    asyncio.run(calls(20))


threads = [threading.Thread(target=loop) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

shared = httpx.AsyncClient()
statuses = [asyncio.run(shared.get(URL)).status_code for _ in range(2)]
failures.extend(f"shared client: {status}" for status in statuses if status != 200)
print("failures:", len(failures), failures[:1])
