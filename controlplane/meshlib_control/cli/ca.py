"""`meshlib ca`: the root of the mesh, and its replacement while everything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .client import find_api
from .options import ApiOption, OutputOption
from .output import Format, document, say, write, write_table

app = typer.Typer(help="The root certificate of the mesh, and its replacement.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The root certificate of the mesh, and its replacement."""


@app.command("show")
def show(output: OutputOption = Format.TABLE, api: ApiOption = "") -> None:
    """Show the roots that the mesh trusts, which one signs, and how far a replacement is."""
    _write(find_api(api).get("/v1/ca"), output)


@app.command("rotate")
def rotate(
    now: Annotated[
        bool, typer.Option("--now", help="Take the next step of a replacement that is under way, whoever is not ready.")
    ] = False,
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> None:
    """Replace the root. The control plane does the rest by itself, while everything runs, in three steps.

    It gives the new root to everybody; signs with it once every connected client has it, and has the members renew; and ends
    the trust in the old one when the last certificate of that is over. Follow it with `meshlib ca show`.

    Example: meshlib ca rotate
    """
    _write(find_api(api).post("/v1/ca/rotate", {"hurry": now}), output)


def _write(status: Mapping[str, Any], output: Format) -> None:
    if output is not Format.TABLE:
        write(document("CertificateAuthority", **status), output)
        return
    rows = [
        [one["subject"], "yes" if one["signs"] else "", one["notAfter"], one["fingerprint"][:16]] for one in status["roots"]
    ]
    write_table(("ROOT", "SIGNS", "NOT AFTER", "SHA-256"), rows)
    say(_SENTENCES[status["phase"]].format(**status, names=_few(status["waitingFor"])))


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown or "nobody"


_SENTENCES = {
    "steady": "No replacement is under way.",
    "distributing": "The new root goes to everybody; it signs once all have it. Missing: {names}.",
    "plugged": "The authority is plugged in, its root is replaced by who has its key. Without the newest roots: {names}.",
    "retiring": "The new root signs. The old one is trusted until {oldRootUntil}, when its last certificate is over.",
}
