"""`meshlib get`: objects as kubectl shows them, with what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from .client import find_api
from .failure import FAILURE, USAGE, Failure
from .kind_names import kind_of
from .options import ApiOption, NamespaceOption, OutputOption
from .output import Format, say, write, write_table

_IDLE = ("MSH0001", "MSH0002")  # told by the word "effective" already


def get(
    what: Annotated[
        list[str],
        typer.Argument(metavar="KIND [NAME]...", help="A kind (vs, dr, se, pa, ...), several joined by commas, or all."),
    ],
    namespace: NamespaceOption = "default",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Objects of every namespace.")] = False,
    output: OutputOption = Format.TABLE,
    api: ApiOption = "",
) -> None:
    """Show objects.

    Examples: meshlib get vs,  meshlib get vs reviews -o yaml,  meshlib get vs,dr -A,  meshlib get vs/reviews
    """
    kinds, names = selection(what)
    where = "" if all_namespaces else namespace
    items = [item for kind in kinds for item in find_api(api).get("/v1/objects", kind=kind, namespace=where)["items"]]
    chosen = _chosen(items, names, "/".join(what), where)
    if output is Format.TABLE:
        _print(chosen, where, several_kinds=len(kinds) != 1 or kinds == [""])
    elif names and len(chosen) == 1:
        write(chosen[0], output)
    else:
        write({"apiVersion": "v1", "kind": "List", "items": chosen}, output)


def selection(what: Sequence[str]) -> tuple[list[str], list[str]]:
    """Kinds and names of kubectl's grammar: `vs reviews`, `vs/reviews`, `vs,dr`, `all` (the kind is then empty).

    Raises:
        Failure: both forms at once, or an unknown kind.
    """
    first, *names = what
    if "/" in first:
        if any("/" not in word for word in what):
            raise Failure("KIND/NAME and KIND NAME cannot be mixed", "meshlib get vs/reviews dr/reviews", USAGE)
        pairs = [word.partition("/") for word in what]
        kinds = list(dict.fromkeys(kind_of(kind) for kind, _, _ in pairs))
        return kinds, [name for _, _, name in pairs]
    return ([""] if first == "all" else [kind_of(word) for word in first.split(",")]), names


def _chosen(items: list[dict[str, Any]], names: list[str], asked: str, where: str) -> list[dict[str, Any]]:
    if not names:
        return items
    chosen = [item for item in items if item["metadata"]["name"] in names]
    missing = [name for name in names if name not in {item["metadata"]["name"] for item in chosen}]
    if missing:
        place = f" in namespace {where}" if where else ""
        raise Failure(f"not found{place}: {', '.join(missing)}", f"meshlib get {asked.split('/')[0]} -A", FAILURE)
    return chosen


def _print(items: list[dict[str, Any]], where: str, *, several_kinds: bool) -> None:
    if not items:
        say(f"No objects found{f' in namespace {where}' if where else ''}.")
        return
    headers = [*([] if where else ["NAMESPACE"]), *(["KIND"] if several_kinds else []), "NAME", "FOR", "STATUS", "AGE"]
    write_table(headers, (_row(item, where, several_kinds=several_kinds) for item in items))


def _row(item: Mapping[str, Any], where: str, *, several_kinds: bool) -> list[str]:
    metadata = item["metadata"]
    return [
        *([] if where else [metadata.get("namespace", "")]),
        *([item["kind"]] if several_kinds else []),
        metadata["name"],
        _subject(item.get("spec") or {}),
        status_of(item),
        age(metadata.get("creationTimestamp", ""), datetime.now(UTC)),
    ]


def _subject(spec: Mapping[str, Any]) -> str:
    """What an object is about: its hosts, the mutual TLS mode, or the workloads it selects."""
    if "host" in spec or "hosts" in spec:
        return _joined(spec.get("hosts") or [spec.get("host")])
    mode = (spec.get("mtls") or {}).get("mode", "")
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    return " ".join(part for part in (mode, _joined(f"{name}={value}" for name, value in labels.items())) if part)


def _joined(words: Iterable[Any]) -> str:
    return ",".join(str(word) for word in words)


def status_of(item: Mapping[str, Any]) -> str:
    """`effective`, `partly effective`, `not effective yet`, or the codes of what is wrong."""
    status = item.get("status", {})
    notes = status.get("validationMessages", [])
    codes = [note["type"]["code"] for note in notes if note["level"] == "ERROR" and note["type"]["code"] not in _IDLE]
    if codes:
        return ",".join(dict.fromkeys(codes))
    effective = next((entry for entry in status.get("conditions", []) if entry["type"] == "Effective"), None)
    if effective is None or effective["status"] == "True":
        return "effective"
    return "not effective yet" if effective["reason"] == "NotEffective" else "partly effective"


def age(created: str, now: datetime) -> str:
    """Time since a moment, short as kubectl's: `12s`, `5m`, `3h`, `9d`; empty if unknown."""
    if not created:
        return ""
    seconds = max(0, int((now - datetime.fromisoformat(created)).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
