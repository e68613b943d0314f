"""`penstock logs`: lines of several processes in the order of time, rotation, and what is not ours."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from penstock.command import cli
from penstock.command.foreground import _StartView
from penstock.stack.logs import Line, follow, last_lines, logs_of, read_line
from penstock.stack.processes import Ending, Program, Supervised
from penstock.terminal.screen import Screen
from shared.errors import ConfigError


def ours(at: str, message: str, level: str = "info", **fields: object) -> str:
    return json.dumps({"at": at, "level": level, "service": "x", "logger": "l", "message": message, **fields}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "loader.log").write_text(
        ours("2026-01-01T00:00:01Z", "a", rows=3) + ours("2026-01-01T00:00:04Z", "d", "error", exception="Boom")
    )
    (logs / "router.log").write_text(ours("2026-01-01T00:00:02Z", "b", why="two words") + "not ours\n")
    (logs / "nats.log").write_text("[7] 2026/01/01 00:00:03.000001 [WRN] slow disk\n")
    return logs


def test_lines_of_all_processes_stand_in_the_order_of_time(folder: Path) -> None:
    lines = last_lines(logs_of(folder, []), 10, "debug")
    assert [(line.process, line.text) for line in lines] == [
        ("loader", "a  rows=3"), ("router", 'b  why="two words"'), ("router", "not ours"), ("nats", "slow disk"), ("loader", "d\nBoom"),
    ]  # fmt: skip
    assert [line.text for line in last_lines(logs_of(folder, ["router"]), 1, "debug")] == ["not ours"]
    assert [line.level for line in last_lines(logs_of(folder, []), 10, "warning")] == ["warning", "error"]


def test_a_log_that_is_rotated_is_followed_from_its_new_beginning(folder: Path) -> None:
    log = folder / "loader.log"
    steps = iter([lambda: log.write_text(""), lambda: log.write_text(ours("2026-01-01T00:00:09Z", "new")[:10]), None])

    def ended() -> bool:
        step = next(steps)
        if step is not None:
            step()
        else:
            with log.open("a") as file:
                file.write(ours("2026-01-01T00:00:09Z", "new")[10:])
        return False

    found = next(iter(follow(logs_of(folder, ["loader"]), "debug", ended)))
    assert found == Line("2026-01-01T00:00:09Z", "loader", "info", "new")


def test_an_unknown_process_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there are: loader, nats, router"):
        logs_of(folder, ["ruoter"])


def test_the_command_prints_and_ends(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["logs", "--home", str(folder.parent), "--last", "1"]) == 0
    assert "2026-01-01 00:00:04     loader     error   d" in capsys.readouterr().out
    assert cli.run(["logs", "--home", str(folder)]) == 4


def test_arrays_and_numbers_are_lines_too() -> None:
    assert read_line("x", "[1]").text == "[1]"


def test_the_supervisor_says_when_and_how_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = Supervised(
        Program("loader", (), {}, tmp_path / "loader.log", ""), lambda: None, restarts=1, state="died, starts again"
    )
    child.ending = Ending(-9, "")
    stack = SimpleNamespace(processes=[child], problems={}, phase="ready")
    _StartView(Screen()).refresh(stack)  # type: ignore[arg-type]
    line = read_line("supervisor", capsys.readouterr().err.strip())
    assert line.at.startswith("20")
    assert (line.process, line.level) == ("supervisor", "warning")
    assert line.text.startswith("loader was ended by SIGKILL; starts again")
