"""Errors of the control plane itself."""

from __future__ import annotations

from meshlib.errors import SettingsError


class CannotStart(SettingsError):
    """The control plane cannot start as it was told to.

    `str` ends with the advice.

    Args:
        problem: what is wrong, without a full stop.
        advice: the next thing to do.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}. Try: {advice}")
        self.problem = problem
        self.advice = advice


class WrongOption(CannotStart):
    """An option's value is none."""
