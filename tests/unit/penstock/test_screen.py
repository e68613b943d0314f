"""What people see: tables on wide and on narrow terminals."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from penstock.control.wording import counted, cut
from penstock.terminal import exits
from penstock.terminal.screen import Screen, Styled, harmless

COLUMNS = ("connection", "received", "why")
ROWS = [
    ("shop-warehouse", 3986, "the password of user penstock is refused by the server at db.example.com"),
    ("shop-live", None, ""),
]


def shown(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    Screen().table(COLUMNS, ROWS)
    return capsys.readouterr().out.splitlines()


def test_only_the_last_column_of_a_table_breaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(70, monkeypatch, capsys)
    assert all(len(line) <= 70 for line in lines)
    row = next(line for line in lines if "shop-warehouse" in line)
    assert "3 986" in row
    assert "the password" in row


@pytest.mark.parametrize("width", [5, 40])
def test_where_a_table_does_not_fit_each_cell_is_a_line(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(width, monkeypatch, capsys)
    assert lines == [
        "",
        "connection  shop-warehouse",
        "received    3 986",
        "why         the password of user penstock is refused by the server at db.example.com",
        "",
        "connection  shop-live",
        "received    -",
    ]


def test_spare_columns_go_before_a_table_becomes_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Screen().table(
        ("connection", "state", "last load", "delivered"),
        [("shop", "ok", "2026-01-01 00:00:00", 3)],
        spare=["last load", "state"],
    )
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines() if "shop" in line] == [["shop", "ok", "3"]]
    assert "last load" not in out
    assert err.strip() == "not shown in 40 columns: last load"


def test_what_is_cut_says_so() -> None:
    assert (cut("abcd", 4), cut("abcde", 4)) == ("abcd", "abc…")
    assert (counted(1, "event"), counted(0, "event")) == ("1 event", "0 events")


def test_a_table_without_rows_is_its_heading(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Screen().table(COLUMNS, [])
    assert "connection" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_who_does_not_agree_is_told_that_nothing_was_done(answer: str) -> None:
    @click.command()
    def ask() -> None:
        Screen().agree("apply it?", "nothing was changed")

    result = CliRunner().invoke(ask, input=answer)
    assert result.exit_code == exits.NO
    assert result.output.endswith("nothing was changed\n")


def test_a_table_lines_up_also_wide_and_combining_letters_and_breaks_words_longer_than_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    rows = [("日本", 1, "one two"), ("e\u0301t", 22, Styled("x" * 40, "red")), ("two\nlines", None, "a b")]
    Screen().table(("name", "n", "why"), rows)
    assert capsys.readouterr().out.splitlines() == [
        "",
        " name     n   why",
        " " + "─" * 48,
        " 日本     1   one two",
        " e\u0301t      22   " + "x" * 35,
        "              " + "x" * 5,
        " two      -   a b",
        " lines        ",
        "",
    ]


def test_colours_show_on_a_terminal_only_and_what_events_hold_moves_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen()
    screen.say("ok\x1b[2J\x07", "bold green")
    assert capsys.readouterr().out == "ok[2J\n"
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    screen.say("ok", "bold green")
    monkeypatch.setenv("NO_COLOR", "1")
    screen.say("ok", "bold green")
    assert capsys.readouterr().out == "\x1b[1;32mok\x1b[0m\nok\n"


def test_a_clients_bytes_on_a_terminal_move_no_cursor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    Screen().source('{"a": "x\x1b]0;evil\x07\x1b[2J\x9b2J",\n"b": 1}', "json")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)  # colours are rich's
    assert "\x1b" not in printed
    assert not {"\x07", "\x9b"} & set(printed)
    assert '"x]0;evil[2J2J"' in printed
    Screen().source("x\x1b[2J", "json")
    assert "\x1b[2J" not in capsys.readouterr().out


def test_a_step_that_stands_still_is_not_told_over_and_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("penstock.terminal.screen.time.monotonic", lambda: now[0])
    with Screen().progress("loading", passing=True) as advance:
        for done in (1, 1, 1, 1, 2):
            now[0] += 6
            advance(done)
    assert capsys.readouterr().err.split("\n") == ["loading: 1 so far", "loading: 2 so far", ""]


def test_what_others_wrote_moves_no_cursor_and_turns_no_line() -> None:
    hostile = "a\x1b]0;title\x07b\x9b2Jc\u202edcba\u2066e\x7f\n\tf"
    assert harmless(hostile) == "a]0;titleb2Jcdcbae\n\tf"
