"""A control plane for the commands, found through MESHLIB_HOME as a user's is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshlib_control.cli import main
from meshlib_control.serve import ControlPlane
from tests.support.control import in_thread


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


Meshlib = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("MESHLIB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MESHLIB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def meshlib(capsys: pytest.CaptureFixture[str]) -> Meshlib:
    """Runs a command line in this process."""

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        code = main(arguments)
        printed = capsys.readouterr()
        return Result(code, printed.out, printed.err)

    return run


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A running control plane."""
    with in_thread(tmp_path) as started:
        yield started
