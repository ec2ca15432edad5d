"""`meshlib version` with options; without any, `main` answers at once."""

from __future__ import annotations

from meshlib._version import __version__

from .options import OutputOption
from .output import Format, document, write
from .version_line import print_version, python_version


def version(output: OutputOption = Format.TABLE) -> None:
    """Print the version of this installation."""
    if output is Format.TABLE:
        print_version()
    else:
        write(document("Version", version=__version__, python=python_version()), output)
