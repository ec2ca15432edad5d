"""`meshlib bootstrap`: what clients of other makes need to join, in files."""

from __future__ import annotations

import typer

from .bootstrap_envoy import envoy
from .bootstrap_grpc import grpc

app = typer.Typer(help="Files with which Envoy and gRPC's own xDS clients join the mesh.", no_args_is_help=True)
app.command("envoy")(envoy)
app.command("grpc")(grpc)


@app.callback()
def _group() -> None:
    """Files with which Envoy and gRPC's own xDS clients join the mesh."""
