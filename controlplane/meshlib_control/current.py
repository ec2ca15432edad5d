"""`current.json`: where the control plane of this user is, so that commands find it without being told.

Light on purpose: every command reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from meshlib.errors import SettingsError

FILE = "current.json"


@dataclass(frozen=True, slots=True)
class Current:
    """A running control plane.

    Args:
        api: base URL, `http://127.0.0.1:15014`.
        token_file: holds the admin token.
        root_cert: PEM of the root; services and commands trust it.
        xds: `HOST:PORT` that services connect to.
        xds_mtls: `HOST:PORT` for clients that show a certificate instead of a token; empty: there is none.
    """

    api: str
    token_file: str
    root_cert: str
    xds: str
    xds_mtls: str = ""

    def to_json(self) -> bytes:
        """As written to `current.json`."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def home_folder(environ: Mapping[str, str]) -> Path:
    """`$MESHLIB_HOME`, or `~/.meshlib`."""
    return Path(environ.get("MESHLIB_HOME") or "~/.meshlib").expanduser()


def read_current(home: Path) -> Current | None:
    """The control plane that was started last with this home and still runs, or None.

    Raises:
        SettingsError: the file is broken.
    """
    path = home / FILE
    try:
        content = json.loads(path.read_text())
        required = {name: str(content[name]) for name in ("api", "token_file", "root_cert", "xds")}
        return Current(**required, xds_mtls=str(content.get("xds_mtls", "")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is broken ({error}). Remove it and start the control plane again") from error
