"""The quick start, the runbooks and README do what they say: their commands, pasted into one shell as they stand there, print what they show.

Blocks marked `sh` run in order, in one folder, one after the other without a pause. A block marked `text` behind one is what it
prints, where `…` stands for anything. The stack is real. Only the port of the edge is another one, so that 8080 may be taken.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from penstock.stack.home import Home
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
PAGES = {"quickstart": ROOT / "docs" / "quickstart.md", "readme": ROOT / "README.md", "runbooks": ROOT / "docs" / "runbooks.md"}
EDGE = "http://127.0.0.1:8080"
MARK = "-- next block --"


class Step(NamedTuple):
    """A block of commands, and what it prints."""

    line: int
    script: str
    shown: str | None


def steps(text: str) -> Iterator[Step]:
    """Returns the blocks of a page that run, each with the output that follows it."""
    blocks = [
        (text[: match.start()].count("\n") + 1, match["language"], match["body"])
        for match in re.finditer(r"^```(?P<language>\w+)\n(?P<body>.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]
    for number, (line, language, body) in enumerate(blocks):
        if language == "sh":
            following = blocks[number + 1] if number + 1 < len(blocks) else None
            yield Step(line, body, following[2] if following and following[1] == "text" else None)


def matches(shown: str, printed: str) -> bool:
    """Whether `printed` is what a page shows, but for spaces at the ends of lines and what `…` stands for."""
    parts = [re.escape(part) for part in "\n".join(line.rstrip() for line in shown.strip().splitlines()).split("…")]
    lines = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
    return re.fullmatch(r"\s*" + ".*?".join(parts) + r"\s*", lines, re.DOTALL) is not None


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("page", list(PAGES))
def test_a_page_does_what_it_shows(page: str, tmp_path: Path) -> None:
    home, port = Home(tmp_path / ".penstock"), free_port()
    text = PAGES[page].read_text(encoding="utf-8").replace(EDGE, f"http://127.0.0.1:{port}")
    blocks = list(steps(text))
    assert blocks
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PENSTOCK_INGEST_PORT": str(port),
        "COLUMNS": "130",
    }
    script = f"\necho; echo '{MARK}'\n".join(block.script for block in blocks)
    try:
        done = subprocess.run(
            ["bash", "-e"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        printed = done.stdout.split(f"{MARK}\n")
        for block, output in zip(blocks, printed, strict=False):
            if block.shown is not None:
                assert matches(block.shown, output), (
                    f"{PAGES[page].name} line {block.line}: shows\n{block.shown}\nand prints\n{output}\n{done.stderr}"
                )
        assert done.returncode == 0, done.stderr
        assert len(printed) == len(blocks)
        assert not home.is_running()
    finally:
        if home.is_running():
            subprocess.run(
                [sys.executable, "-m", "penstock", "down", "--home", str(home.folder)], cwd=ROOT, timeout=120, check=False
            )


def test_what_a_page_shows_is_compared_and_not_merely_run() -> None:
    assert matches("a …\n…\nz", "a 1\nsomething\nz\n")
    assert not matches("a …\nz", "a 1\nsomething else")
    assert [step.shown for step in steps("```sh\none\n```\n\n```text\n1\n```\n\n```sh\ntwo\n```\n")] == ["1\n", None]
