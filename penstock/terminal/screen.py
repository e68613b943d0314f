"""What a command prints: tables and sentences for people, one JSON document for programs.

Results go to standard output; progress, warnings and errors to standard error, so that results can be piped. Colours and moving bars
only appear on a terminal. With `--json`, standard output holds JSON and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.control.wording import Advance
from penstock.terminal.exits import NO
from shared.errors import ConfigError

PIPED_WIDTH = 200
"""Columns when nobody looks: nothing is cut for a width that is not there."""


FOLDED_COLUMNS = 30
"""How narrow the last column of a table may become before the table is shown as records."""

SPEAK_EVERY_SECONDS = 5.0
"""How often a long step says where it is when there is no bar to look at."""


class Screen:
    """Standard output and error of one command."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def is_terminal(self) -> bool:
        """True if a person watches and may answer."""
        return self.out.is_terminal and sys.stdin.isatty()

    def say(self, text: str, style: str | None = None) -> None:
        """Prints a sentence for people."""
        if not self.json:
            self.out.print(Text(text, style=style or ""), soft_wrap=True)

    def note(self, text: str, style: str | None = None) -> None:
        """Prints a sentence beside the result, on standard error, also with --json.

        Where nobody can read it any more (the terminal is gone) it is left out: what is noted matters less than what goes on.
        """
        with contextlib.suppress(OSError):
            self.err.print(Text(text, style=style or "dim"), soft_wrap=True)

    def agree(self, question: str, otherwise: str) -> None:
        """Asks whether to go on; ends the command with code 1 where the answer is no, saying what was not done.

        Raises:
            click.exceptions.Exit: the answer is no.
            click.Abort: there is none.
        """
        if not click.confirm(question):
            self.say(otherwise)
            raise click.exceptions.Exit(NO)

    def result(self, value: Any) -> None:
        """Prints the result for programs, when they ask for it."""
        if self.json:
            self.line(value, indent=2)

    def line(self, value: Any, indent: int = 0) -> None:
        """Prints one JSON value; by default on one line."""
        text = msgspec.json.encode(value, enc_hook=str)
        sys.stdout.write((msgspec.json.format(text, indent=indent) if indent else text).decode() + "\n")
        sys.stdout.flush()

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        title: str | None = None,
        *,
        spare: Sequence[str] = (),
    ) -> None:
        """Prints a table for people; numbers stand right. Where it does not fit, a line for each cell: `column  value`.

        Args:
            spare: columns to leave out before that, the first of them first; a line says which are missing.
        """
        if self.json:
            return
        kinds = [list(row) for row in rows]
        columns, kinds, missing = self._without_spare(columns, kinds, spare)
        cells = [[cell if isinstance(cell, Text) else Text(_shown(cell)) for cell in row] for row in kinds]
        if title:
            self.out.print(Text(f"\n{title}", "bold"))
        if _needed(columns, kinds) > self.out.width:
            self._records(columns, cells)
            return
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for index, column in enumerate(columns):
            numeric = bool(kinds) and all(isinstance(row[index], int | float | None) for row in kinds)
            last = index == len(columns) - 1
            table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=not last)
        for row in cells:
            table.add_row(*row)
        self.out.print(table)
        if missing:
            self.note(f"not shown in {self.out.width} columns: {', '.join(missing)}")

    def _without_spare(
        self, columns: Sequence[str], rows: list[list[object]], spare: Sequence[str]
    ) -> tuple[list[str], list[list[object]], list[str]]:
        """Returns columns and rows that fit if leaving out `spare` ones is enough, and the names of those left out."""
        kept, missing = list(columns), list[str]()
        for name in spare:
            if _needed(kept, rows) <= self.out.width:
                break
            index = kept.index(name)
            kept = kept[:index] + kept[index + 1 :]
            rows = [row[:index] + row[index + 1 :] for row in rows]
            missing.append(name)
        return kept, rows, missing

    def _records(self, columns: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
        margin = max(cell_len(column) for column in columns) + 2
        for row in rows:
            self.out.print()
            for column, cell in zip(columns, row, strict=True):
                if cell.plain:
                    self.out.print(Text.assemble((f"{column:<{margin}}", "bold"), cell), soft_wrap=True)

    @contextlib.contextmanager
    def progress(
        self, what: str, total: int | None = None, *, passing: bool = False, in_bytes: bool = False
    ) -> Iterator[Advance]:
        """Shows a bar while the context is open; where nobody looks, a line now and then and one at the end.

        Args:
            passing: the bar goes at the end, because what follows says it all.
            in_bytes: done and total are bytes; only their ratio is shown, and the note counts.
        """
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )  # most commands show none

        moving = self.err.is_terminal
        began, last = time.monotonic(), {"done": 0, "note": ""}
        spoke = began
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            TaskProgressColumn() if in_bytes else MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.err,
            disable=not moving,
            transient=passing,
        ) as bar:
            task = bar.add_task(what, total=total, note="")

            def advance(done: int, *, note: str = "", total: int | None = None) -> None:
                nonlocal spoke
                last.update(done=done, note=note)
                if not moving and time.monotonic() - spoke >= SPEAK_EVERY_SECONDS:
                    spoke = time.monotonic()
                    self.note(f"{what}: {note}" if in_bytes else f"{what}: {done} so far {note}".rstrip())
                bar.update(task, completed=done, note=note, **({} if total is None else {"total": total}))  # type: ignore[arg-type]

            yield advance
        seconds = time.monotonic() - began
        if not moving and not self.json and not passing and seconds >= 1:
            done = "" if in_bytes else f"{last['done']} "
            self.note(f"{what}: {done}in {seconds:.1f} s {last['note']}".rstrip())

    def fail(self, error: BaseException, code: int) -> None:
        """Prints an error: what, where, what to do; as JSON on standard error with --json."""
        problems = list(error.problems) if isinstance(error, ConfigError) else []
        if self.json:
            kind = type(error).__name__
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            body = {"error": {"kind": kind, "message": message, "exit_code": code}}
            if problems:
                body["error"]["problems"] = [{"path": problem.path, "message": problem.message} for problem in problems]
            with contextlib.suppress(OSError):
                sys.stderr.write(msgspec.json.encode(body).decode() + "\n")
            return
        for text in [str(problem) for problem in problems] or [str(error) or type(error).__name__]:
            with contextlib.suppress(OSError):
                self.err.print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


def typed_command() -> str:
    """Returns what to type for `penstock` here: its path, where the environment it lives in is not active."""
    beside = Path(sysconfig.get_path("scripts")) / "penstock"
    found = shutil.which("penstock")
    if (found and Path(found) == beside) or not beside.exists():
        return "penstock"
    return os.path.relpath(beside)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # rich ends the process with code 1, in whatever task prints; `cli.py` knows better
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPED_WIDTH
    return console


def _needed(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    """Returns the width of a table. The last column is the one with sentences: it may break, the others may not."""
    widths = [max(cell_len(column), *(cell_len(_plain(row[index])) for row in rows), 0) for index, column in enumerate(columns)]
    return sum(widths[:-1]) + min(widths[-1], FOLDED_COLUMNS) + 3 * len(columns)


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else _shown(cell)


def _shown(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}".replace(",", " ")
    if isinstance(cell, float):
        return f"{cell:.1f}"
    return str(cell)
