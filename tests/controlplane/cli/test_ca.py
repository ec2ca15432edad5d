"""`meshlib ca`: what an operator sees of the roots."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshlib_control import looking
from tests.controlplane.cli.conftest import Meshlib

pytestmark = pytest.mark.usefixtures("plane")


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is taken by itself."""
    monkeypatch.setattr(looking, "PERIOD", 1000.0)


def shown(meshlib: Meshlib) -> Any:
    return json.loads(meshlib("ca", "show", "-o", "json").out)


def test_one_root_signs(meshlib: Meshlib) -> None:
    """And nothing is under way."""
    result = meshlib("ca", "show")
    assert result.code == 0
    assert result.out.splitlines()[0].split() == ["ROOT", "SIGNS", "NOT", "AFTER", "SHA-256"]
    assert "meshlib root" in result.out
    assert "No replacement is under way." in result.out + result.err


def test_a_replacement_step_by_step(meshlib: Meshlib) -> None:
    """Each command tells how far it is."""
    first = shown(meshlib)["roots"][0]["fingerprint"]
    begun = meshlib("ca", "rotate")
    assert "Missing: nobody" in begun.out + begun.err
    again = meshlib("ca", "rotate")
    assert (again.code, "already" in again.err) == (65, True)
    switched = meshlib("ca", "rotate", "--now")
    assert "The new root signs" in switched.out + switched.err
    over = meshlib("ca", "rotate", "--now", "-o", "json")
    assert json.loads(over.out)["phase"] == "steady"
    assert shown(meshlib)["roots"][0]["fingerprint"] != first
