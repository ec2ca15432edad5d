"""What the API answers: JSON, and errors of one shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import JSONResponse

from meshlib.errors import ConfigurationError


def problem(error: Exception) -> dict[str, Any]:
    """An error as JSON: `error`, and `file`, `line`, `field`, `suggestion` as far as they are known."""
    if not isinstance(error, ConfigurationError):
        advice = getattr(error, "suggestion", "")
        return {"error": str(error), "file": "", "line": 0, "field": "", "suggestion": advice}
    return {
        "error": error.problem,
        "file": error.file,
        "line": error.line,
        "field": error.field,
        "suggestion": getattr(error, "suggestion", ""),
    }


def answer_error(status: int, text: str, suggestion: str = "", headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error that belongs to no line of a file."""
    return JSONResponse(
        {"error": text, "file": "", "line": 0, "field": "", "suggestion": suggestion}, status, headers=dict(headers or {})
    )


def answer_problems(status: int, errors: Iterable[Exception]) -> JSONResponse:
    """Several errors: the first in the usual place, all of them in `errors`."""
    problems = [problem(error) for error in errors]
    return JSONResponse({**problems[0], "errors": problems}, status)
