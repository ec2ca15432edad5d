"""Times on the command line: `90s`, `15m`, `24h`, `30d`, and both together: `1h30m`."""

from __future__ import annotations

import re

from .failure import USAGE, Failure

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FORM = re.compile(r"(?:\d{1,9}[smhd])+")


def parse_duration(text: str, option: str) -> int:
    """Seconds of a written time.

    Args:
        option: which option said so, for the error.

    Raises:
        Failure: wrong usage.
    """
    if not _FORM.fullmatch(text):
        raise Failure(f"{option} {text!r} is no time", f"{option} 24h  (units: s, m, h, d)", USAGE)
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))
