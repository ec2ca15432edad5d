"""What is wrong in the smallest object of a kind, for the tests of Istio's rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from meshlib_control import objects, validate, yaml
from meshlib_control.kinds import KINDS
from meshlib_control.mistakes import Mistake


def mistakes(kind: str, spec: Any, **metadata: Any) -> list[Mistake]:
    """Of an object named `a`, in the newest version of its kind that has a spec."""
    (version,) = {known.api_version for known in KINDS.values() if known.name == kind and known.spec}
    return mistakes_in(
        yaml.Document({"apiVersion": version, "kind": kind, "metadata": {"name": "a", **metadata}, "spec": spec})
    )


def mistakes_in(document: yaml.Document) -> list[Mistake]:
    """What apply would tell."""
    found = objects.mistakes(document)
    return found or [mistake for one in objects.read(document) for mistake in validate.mistakes(one)]


def each_refused(cases: Sequence[tuple[str, Any, str, str]]) -> pytest.MarkDecorator:
    """Runs a test with `kind`, `spec`, the `field` that is wrong, and `words` of the problem."""
    return pytest.mark.parametrize(
        ("kind", "spec", "field", "words"), cases, ids=lambda value: value if isinstance(value, str) else ""
    )


def each_accepted(cases: Sequence[tuple[str, Any]]) -> pytest.MarkDecorator:
    """Runs a test with `kind` and `spec`."""
    return pytest.mark.parametrize(("kind", "spec"), cases)
