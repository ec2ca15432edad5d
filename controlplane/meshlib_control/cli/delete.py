"""`meshlib delete`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .apply import author
from .client import Api, find_api
from .failure import USAGE, Failure
from .get import selection
from .manifests import read_manifests
from .options import ApiOption, NamespaceOption, OutputOption
from .output import Format, document, write


def delete(
    what: Annotated[list[str] | None, typer.Argument(metavar="[KIND NAME...]", help="As in get.")] = None,
    files: Annotated[
        list[str] | None, typer.Option("--filename", "-f", metavar="FILE", help="Delete what a file names.")
    ] = None,
    namespace: NamespaceOption = "default",
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> None:
    """Delete objects.

    Examples: meshlib delete vs reviews,  meshlib delete -f virtual-service-reviews.yaml
    """
    target = find_api(api)
    if files and what:
        raise Failure("-f and KIND NAME cannot be mixed", "meshlib delete vs reviews", USAGE)
    chosen = _named_in(target, files, namespace) if files else _named(what or [], namespace)
    deleted = [target.delete("v1", "objects", kind, where, name, author=author())["deleted"] for kind, where, name in chosen]
    if output is not Format.TABLE:
        write(document("DeleteResult", deleted=deleted), output)
        return
    for resource in deleted:
        print(f"{resource} deleted")


def _named(what: list[str], namespace: str) -> list[tuple[str, str, str]]:
    if not what:
        raise Failure("delete what?", "meshlib delete vs reviews  (or -f FILE)", USAGE)
    kinds, names = selection(what)
    if not names or kinds == [""]:
        raise Failure("delete needs a kind and names", "meshlib delete vs reviews", USAGE)
    if "/" in what[0]:
        return [(kind, namespace, name) for word in what for (kind,), (name,) in [selection([word])]]
    return [(kind, namespace, name) for kind in kinds for name in names]


def _named_in(target: Api, files: list[str], namespace: str) -> list[tuple[str, str, str]]:
    """What files name; the control plane reads them, so that both agree on what they mean."""
    manifests = [manifest.to_json() for manifest in read_manifests(files, "delete")]
    answer: Any = target.post("/v1/apply", {"files": manifests, "namespace": namespace, "dryRun": True})
    return [(change["kind"], change["namespace"], change["name"]) for change in answer["changes"]]
