"""RateLimit: an amount or a service, and conditions that can be judged."""

from __future__ import annotations

from collections.abc import Iterator

from meshlib_control.kinds import RateLimit
from meshlib_control.kinds.common import StringMatch
from meshlib_control.kinds.rate_limit import Key
from meshlib_control.mistakes import Mistake, child, item
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats
from meshlib_control.validate.common import selector, told

_SHORTEST = 0.05  # seconds; Envoy's


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a RateLimit."""
    spec: RateLimit = found.spec
    yield from selector(spec.selector)
    if spec.local is None and spec.global_ is None:
        yield Mistake("spec", "one of local and global must be set", "write local: {requests: 100, per: 1m}")
    if spec.local is not None and spec.local.per < _SHORTEST:
        yield Mistake("spec.local.per", "must be 50ms or more")
    if spec.global_ is not None:
        yield from told("spec.global.host", formats.wildcard_host(spec.global_.host))
    for index, key in enumerate(spec.keys):
        yield from _key(key, item("spec.keys", index))
    yield from _twice([_name(key) for key in spec.keys], "spec.keys")
    if spec.application is not None:
        yield from _twice(list(spec.application.keys), "spec.application.keys")
    yield from _conditions(spec)


def _key(key: Key, path: str) -> Iterator[Mistake]:
    if not _name(key):
        yield Mistake(path, "says nothing", "write header: NAME, query: NAME, claim: NAME, peer: true or remoteAddress: true")


def _name(key: Key) -> str:
    flags = "peer" * key.peer or "remoteAddress" * key.remote_address
    return key.header or key.query or key.claim or flags


def _twice(names: list[str], path: str) -> Iterator[Mistake]:
    for index, name in enumerate(names):
        if name and name in names[:index]:
            yield Mistake(item(path, index), f"{name} is here twice")


def _conditions(spec: RateLimit) -> Iterator[Mistake]:
    if spec.match is None:
        return
    named: dict[str, StringMatch | None] = {"spec.match.path": spec.match.path, "spec.match.method": spec.match.method}
    named |= {child("spec.match.headers", name): match for name, match in spec.match.headers.items()}
    for path, match in named.items():
        if match is not None and match.regex is not None:
            yield from told(f"{path}.regex", formats.regex(match.regex))
