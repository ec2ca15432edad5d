"""All commands in the order of `meshlib --help`. Only the module of the command that is called gets imported."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer

# command -> module of this package, function or typer group in it.
COMMANDS = {
    "demo": ("demo", "demo"),
    "controlplane": ("controlplane", "controlplane"),
    "run": ("run", "run"),
    "apply": ("apply", "apply"),
    "get": ("get", "get"),
    "delete": ("delete", "delete"),
    "history": ("history", "history"),
    "analyze": ("analyze", "analyze"),
    "ps": ("ps", "ps"),
    "edges": ("edges", "edges"),
    "pc": ("pc", "app"),
    "explain": ("explain", "explain"),
    "authz": ("authz", "app"),
    "ratelimit": ("ratelimit", "ratelimit"),
    "token": ("join_token", "app"),
    "ca": ("ca", "app"),
    "cert": ("cert", "app"),
    "bootstrap": ("bootstrap", "app"),
    "version": ("version", "version"),
}

# Names that commands had before.
_FORMER = {"certs": "cert"}

# Everything after the own options of `run` belongs to the program that it starts.
_SETTINGS: dict[str, dict[str, Any]] = {"run": {"allow_interspersed_args": False}}


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The application with the one command that the arguments call; with all commands if they call none, or a wrong one."""
    called = next((word for word in arguments if not word.startswith("-")), "")
    app = typer.Typer(
        name="meshlib",
        help="A service mesh inside your Python processes: Istio's YAML, mutual TLS, routing and telemetry without a proxy.",
        add_completion=not arguments or arguments[0].startswith("-"),
        pretty_exceptions_enable=False,  # a fault of ours is reported with Python's own traceback, which issues can quote
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_welcome)
    if called in _FORMER:
        _add(app, _FORMER[called], called)
    for name in [called] if called in COMMANDS else COMMANDS:
        _add(app, name)
    return app


def _add(app: typer.Typer, name: str, called: str = "") -> None:
    module, attribute = COMMANDS[name]
    found = getattr(import_module(f"{__package__}.{module}"), attribute)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=called or name)
    else:
        app.command(name, context_settings=_SETTINGS.get(name))(found)


def _welcome(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
