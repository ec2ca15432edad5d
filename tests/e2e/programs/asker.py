"""A client that stays: each line of its input is `METHOD URL JSON-HEADERS`, each line of its output the status, 0 for none."""

from __future__ import annotations

import json
import sys

import requests

for line in sys.stdin:
    method, url, headers = line.split(" ", 2)
    try:
        print(requests.request(method, url, headers=json.loads(headers), timeout=10).status_code, flush=True)
    except requests.RequestException:
        print(0, flush=True)
