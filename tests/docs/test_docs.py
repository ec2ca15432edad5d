"""The documentation says what is so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from meshlib.runtime.settings import Settings
from meshlib_control.cli.app import COMMANDS

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "examples").glob("*/README.md")),
]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that exists."""
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert missing == []


def test_every_setting_is_explained() -> None:
    """The reference has a row for each variable, and none for what does not exist."""
    rows = [line for line in (REPOSITORY / "docs" / "reference.md").read_text().splitlines() if line.startswith("| `MESHLIB_")]
    told = {name for row in rows for name in re.findall(r"`(MESHLIB_\w+)`", row.split("|")[1])}
    assert told == {f"MESHLIB_{field.name.upper()}" for field in dataclasses.fields(Settings)} | {
        "MESHLIB_DISABLED_INTEGRATIONS"
    }


def test_every_command_is_explained() -> None:
    """The reference names each command."""
    text = (REPOSITORY / "docs" / "reference.md").read_text()
    assert [name for name in COMMANDS if f"`meshlib {name}" not in text] == []


def test_every_finding_is_explained() -> None:
    """The page of findings has a row for each code, and none that nobody is told."""
    told = {
        row[2:9]
        for row in (REPOSITORY / "docs" / "mistakes.md").read_text().splitlines()
        if row.startswith("| ") and row[2:5].isupper()
    }
    sources = (REPOSITORY / "controlplane" / "meshlib_control").rglob("*.py")
    assert told == {code for source in sources for code in re.findall(r'= "((?:IST|MSH)\d{4})"', source.read_text())}


def test_the_readme_begins_with_the_two_commands() -> None:
    """Before anything else to type."""
    blocks = re.findall(r"```\w*\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert [line.split("#")[0].strip() for line in blocks[0].strip().splitlines()] == ["make bookinfo", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_are_started_with_a_token(page: Path) -> None:
    """Or an identity from elsewhere: without one a program runs, and is nobody. Of commands to type; tables show forms."""
    text = page.read_text().replace("\\\n", " ")
    commands = [line for line in text.splitlines() if re.match(r"\s*([A-Z_]+=\S+ )?meshlib run --service", line)]
    joining = ("--token-file", "MESHLIB_IDENTITY_SOURCE=")
    assert [line for line in commands if not any(how in line for how in joining)] == []
