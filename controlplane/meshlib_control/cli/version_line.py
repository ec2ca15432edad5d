"""Which meshlib this is. Imports nothing: `meshlib version` answers from here."""

from __future__ import annotations

import sys

from meshlib._version import __version__


def python_version() -> str:
    """The interpreter's version, `3.12.1`."""
    return ".".join(map(str, sys.version_info[:3]))


def print_version() -> int:
    """Print the version for people. Returns the exit code."""
    print(f"meshlib {__version__} (Python {python_version()})")
    return 0
