"""httpx.AsyncClient in two event loops of two threads at the same time, then one client in two loops one after the other."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx

URL = "http://httpbin:8000/loops"
answers: list[dict[str, object]] = []


async def calls(count: int) -> None:
    """Some calls at the same time."""
    async with httpx.AsyncClient() as client:
        responses = await asyncio.gather(*(client.get(URL) for _ in range(count)))
    answers.extend(response.json() for response in responses)


threads = [threading.Thread(target=asyncio.run, args=[calls(20)]) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

shared = httpx.AsyncClient()
answers.extend(asyncio.run(shared.get(URL)).json() for _ in range(2))

print(
    json.dumps(
        {
            "answers": len(answers),
            "failures": [answer for answer in answers if "x-forwarded-client-cert" not in str(answer["headers"])],
            "pids": list({answer["pid"] for answer in answers}),
        }
    )
)
