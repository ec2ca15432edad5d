"""Patches modules when they are imported: each entry point of the group `meshlib.integrations` knows one."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from wrapt.importer import register_post_import_hook

from meshlib.run.executor import carry_context
from meshlib.run.names import DISABLED, GROUP, STRICT, WATCHED

_installed = False


def install() -> None:
    """Patch what integrations know: modules that are imported already at once, the others when they are. Idempotent."""
    global _installed
    if _installed:
        return
    _installed = True
    disabled = {name.strip() for name in os.environ.get(DISABLED, "").split(",")}
    for entry in entry_points(group=GROUP):
        if entry.name not in disabled:
            register_post_import_hook(partial(_patch, entry), entry.name)
    register_post_import_hook(carry_context, "concurrent.futures.thread")


def opentelemetry() -> None:
    """For the entry point group `opentelemetry_post_instrument`: `meshlib run -- opentelemetry-instrument ...`.

    OpenTelemetry puts its own sitecustomize before ours and does not load the next one.
    """
    if WATCHED in os.environ:
        install()


def _patch(entry: EntryPoint, module: ModuleType) -> None:
    try:
        entry.load()(module)
    except Exception as error:  # whatever an integration does wrong, the program must import its module
        if os.environ.get(STRICT) == "1":
            raise
        print(
            f"meshlib: {entry.name} is not in the mesh: {type(error).__name__}: {error}. "
            f"To go without this warning, set {DISABLED}={entry.name}",
            file=sys.stderr,
        )
