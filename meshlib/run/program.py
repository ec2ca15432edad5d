"""Becoming the program: its environment, one line about what it joins, and exec."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from meshlib.errors import MeshError, SettingsError
from meshlib.run.names import DISABLED, GROUP, STRICT, WATCHED
from meshlib.runtime.settings import Settings

FOLDER = str(Path(__file__).with_name("sitecustomize"))

_NOT_FOUND = 127  # what a shell answers
_NOT_EXECUTABLE = 126
_UNAVAILABLE = 69  # sysexits EX_UNAVAILABLE, as the other commands say that the control plane cannot be reached


def launch(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """See `meshlib.run.launch`."""
    settings = Settings.from_env(environ)
    env = joined_environment(environ, settings) if settings.enabled else dict(environ)
    if shutil.which(command[0], os.F_OK, env.get("PATH")) is None:
        return _sorry(f"{command[0]}: command not found. Is it installed in this environment?", _NOT_FOUND)
    if settings.enabled and settings.strict:
        problem = _refusal(settings)
        if problem is not None:
            return _sorry(f"{problem}. MESHLIB_STRICT is set: {command[0]} was not started", _UNAVAILABLE)
    if settings.enabled:
        print(banner(settings, env), file=sys.stderr, flush=True)
    try:
        os.execvpe(command[0], list(command), env)  # noqa: S606  the program is what the user typed
    except OSError as error:
        return _sorry(f"{command[0]}: cannot be executed: {error.strerror}", _NOT_EXECUTABLE)


def _refusal(settings: Settings) -> MeshError | None:
    from meshlib.run.strict import refusal  # here, not above: cryptography and gRPC, for the strict only

    return refusal(settings)


def joined_environment(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The program's environment: our folder first on PYTHONPATH, the names to watch, one instance name for all workers."""
    others = [part for part in environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != FOLDER]
    return {
        **environ,
        "PYTHONPATH": os.pathsep.join([FOLDER, *others]),
        "MESHLIB_INSTANCE": settings.instance,
        STRICT: "1" if settings.strict else "0",
        WATCHED: ",".join(integrations(environ)),
    }


def integrations(environ: Mapping[str, str]) -> list[str]:
    """The modules that installed integrations patch, without those of MESHLIB_DISABLED_INTEGRATIONS."""
    disabled = {name.strip() for name in environ.get(DISABLED, "").split(",")}
    return sorted({entry.name for entry in entry_points(group=GROUP)} - disabled)


def banner(settings: Settings, env: Mapping[str, str]) -> str:
    """One line about what the program joins, and as whom."""
    name = f"{settings.service}.{settings.namespace}" if settings.service else f"a client in {settings.namespace}"
    return (
        f"meshlib: {name} ({settings.instance}) joins {settings.control_plane} as {identity(settings)}; "
        f"watching {env.get(WATCHED, '').replace(',', ' ') or 'nothing'}"
    )


def identity(settings: Settings) -> str:
    """The SPIFFE id that the credential asks for; the control plane decides. For people only: nothing is verified here."""
    if settings.identity_source:
        return f"whoever {settings.identity_source} says"
    try:
        payload = settings.read_token().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        _, _, namespace, account = claims["sub"].split(":")
    except SettingsError as error:
        return f"nobody yet ({error})"
    except (IndexError, KeyError, TypeError, ValueError):
        return "nobody (no join token)" if not settings.read_token() else "whoever its credential names"
    return f"spiffe://{settings.domain}/ns/{namespace}/sa/{account}"


def _sorry(text: str, code: int) -> int:
    print(f"meshlib: {text}", file=sys.stderr)
    return code
