"""A client that stays: it reads lines `METHOD URL JSON-HEADERS` and answers each with `[STATUS, TEXT]`; status 0: none."""

from __future__ import annotations

import json
import sys

import requests

for line in sys.stdin:
    method, url, headers = line.split(" ", 2)
    try:
        answer = requests.request(method, url, headers=json.loads(headers), timeout=10)
        print(json.dumps([answer.status_code, answer.text]), flush=True)
    except requests.RequestException as error:
        print(json.dumps([0, str(error)]), flush=True)
