"""A client that calls at a pace, whatever the answers take: `python paced.py RATE SECONDS URL`, through httpx and requests.

At the end it prints one JSON line: how many calls it sent, who answered, and what failed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import requests


class Tally:
    """What came of the calls."""

    def __init__(self) -> None:
        self.sent = 0
        self.names = Counter[str]()
        self.failures: list[str] = []

    def note(self, status: int, answer: Any) -> None:
        if status == 200:
            self.names[answer["name"]] += 1
        else:
            self.failures.append(f"{status}: {answer}")


async def main(rate: int, seconds: int, url: str) -> None:
    tally, threads = Tally(), ThreadPoolExecutor(16)
    async with httpx.AsyncClient(timeout=10) as client, asyncio.TaskGroup() as group:
        begin = time.monotonic()
        for number in range(rate * seconds):
            await asyncio.sleep(begin + number / rate - time.monotonic())
            call = blocking(threads, url) if number % 4 == 0 else awaiting(client, url)
            group.create_task(counted(tally, call))
    print(json.dumps({"sent": tally.sent, "names": tally.names, "failures": tally.failures}), flush=True)


async def counted(tally: Tally, call: Any) -> None:
    tally.sent += 1
    try:
        tally.note(*await call)
    except (httpx.HTTPError, requests.RequestException) as error:
        tally.failures.append(repr(error))


async def awaiting(client: httpx.AsyncClient, url: str) -> tuple[int, Any]:
    response = await client.get(url)
    return response.status_code, response.json()


async def blocking(threads: ThreadPoolExecutor, url: str) -> tuple[int, Any]:
    response = await asyncio.get_running_loop().run_in_executor(threads, lambda: requests.get(url, timeout=10))
    return response.status_code, response.json()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
