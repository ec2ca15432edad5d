"""A steady client: `steady.py URL SECONDS` asks from four threads, prints what failed and how many certificates it showed."""

from __future__ import annotations

import json
import re
import sys
import threading
import time

import requests

url, seconds = sys.argv[1], float(sys.argv[2])
end = time.monotonic() + seconds
failures: list[str] = []
hashes: set[str] = set()
requests_sent = 0


def ask() -> None:
    """Until the time is over; half of the calls on fresh connections, so that new handshakes happen all the time."""
    global requests_sent
    while time.monotonic() < end:
        with requests.Session() as session:
            for _ in range(5):
                requests_sent += 1
                try:
                    response = session.get(url, timeout=10)
                    response.raise_for_status()
                    hashes.update(
                        re.findall("Hash=([0-9a-f]+)", response.json()["headers"].get("x-forwarded-client-cert", ""))
                    )
                except requests.RequestException as error:
                    failures.append(f"{error!r} {getattr(error, '__notes__', '')}")
                time.sleep(0.01)


threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"requests": requests_sent, "failures": failures[:3], "identities": len(hashes)}))
