"""Names that the launcher, the processes below it and the integrations agree on."""

from __future__ import annotations

GROUP = "meshlib.integrations"
"""Entry points: the name is the module to watch, the value is called with that module once it is imported."""

WATCHED = "MESHLIB_RUN"
"""Set by the launcher: modules to watch, separated by commas. Absent: the process was not started by `meshlib run`."""

DISABLED = "MESHLIB_DISABLED_INTEGRATIONS"
"""Set by the user: names to leave alone, separated by commas."""

STRICT = "MESHLIB_STRICT"
"""Set by the user, and to `1` or `0` by the launcher: `1` makes a failure to join end the program."""
