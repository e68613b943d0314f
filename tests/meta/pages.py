"""The pages of the documentation, read for tests: which there are, their blocks of code, tables, links and names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from penstock import reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
GENERATED = set(reference.pages())
WRITTEN = [page for page in PAGES if not (page.is_relative_to(DOCS) and str(page.relative_to(DOCS)) in GENERATED)]
"""Pages that people write."""


class Fence(NamedTuple):
    """A block of code in a page."""

    page: Path
    line: int
    language: str
    body: str


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fences(page: Path) -> list[Fence]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Fence(page, text[: each.start()].count("\n") + 1, each[1], each[2]) for each in found]


def prose(page: Path) -> str:
    """Returns a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """Returns what the headings of a page can be linked by, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).strip().replace(" ", "-") for title in titles]
    return {
        title if plain[:place].count(title) == 0 else f"{title}-{plain[:place].count(title)}" for place, title in enumerate(plain)
    }


def rows(page: Path, heading: str) -> list[list[str]]:
    """Returns the cells of the first table below a heading."""
    _, _, below = page.read_text(encoding="utf-8").partition(f"{heading}\n")
    assert below, f"{name_of(page)} has no heading {heading!r}"
    table: list[list[str]] = []
    for line in below.splitlines():
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif table:
            break
        elif line.startswith("#"):
            pytest.fail(f"{name_of(page)}: no table below {heading!r}")
    return [[cell.strip("| ") for cell in row] for row in table[2:]]


def codes(cells: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cells)


def command_names() -> dict[str, click.Command]:
    return {path.removeprefix("penstock "): command for path, command in reference.commands()}
