"""An ordinary client: GETs each URL of the command line, prints a JSON line for each: status, or 0 if there was none."""

from __future__ import annotations

import json
import sys

import requests

for url in sys.argv[1:]:
    try:
        response = requests.get(url, timeout=10)
        print(json.dumps({"url": url, "status": response.status_code, "body": response.text}), flush=True)
    except requests.RequestException as error:
        notes = getattr(error, "__notes__", [])
        print(json.dumps({"url": url, "status": 0, "body": str(error), "notes": notes}), flush=True)
