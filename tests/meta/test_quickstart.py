"""docs/quickstart.md does what it says: its commands run as they stand there, and print what it shows.

Blocks marked `sh` run in order, in one folder. A block marked `text` behind one is what it prints, where `…` stands for anything.
The stack is real. Only the port is changed where another program has 8080.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from penstock.home import Home, StackState

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
EDGE = "http://127.0.0.1:8080"
PATIENCE_SECONDS = 60.0
"""How long a look at what arrived is repeated: the reader of the page would look again, too."""


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


def edge_of(home: Home) -> str:
    """Returns where the stack takes events."""
    return msgspec.json.decode(home.state_file.read_bytes(), type=StackState).ingest_url if home.state_file.exists() else EDGE


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quick_start_does_what_it_shows(tmp_path: Path) -> None:
    home = Home(tmp_path / ".penstock")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "COLUMNS": "130",
    }

    def run(script: str) -> str:
        script = "set -euo pipefail\n" + script.replace(EDGE, edge_of(home))
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        printed = done.stdout + (done.stderr if done.returncode else "")
        return printed if done.returncode == 0 else f"{printed}\nexit code {done.returncode}"

    try:
        ran = 0
        for step in steps(PAGE.read_text(encoding="utf-8")):
            looks_only = not any(word in step.script for word in ("curl", "cat >", "penstock apply", "penstock up"))
            ends_at = time.monotonic() + (PATIENCE_SECONDS if looks_only else 0)
            while True:
                printed = run(step.script)
                shown = None if step.shown is None else step.shown.replace(EDGE, edge_of(home))
                if (shown is None and "\nexit code" not in printed) or (shown is not None and matches(shown, printed)):
                    break
                assert time.monotonic() < ends_at, f"{PAGE.name} line {step.line}: shows\n{shown}\nand prints\n{printed}"
                time.sleep(0.5)
            ran += 1
        assert ran > 10
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
