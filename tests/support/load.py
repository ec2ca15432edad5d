"""Steady load on a service that answers with its name."""

from __future__ import annotations

import threading

import httpx


class Load:
    """Requests without a pause until stopped; `failures` must stay empty."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures: list[str] = []
        self.names: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=10) as client:
            while not self._stop.wait(0.005):
                try:
                    response = client.get(self.url)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if response.status_code == 200:
                    self.names.append(response.json()["name"])
                else:
                    self.failures.append(response.text)
