"""What a command prints: tables and sentences for people, one JSON document for programs.

Results go to standard output; progress, warnings and errors to standard error, so that results can be piped. Colours and moving
bars only appear on a terminal. With `--json`, standard output holds JSON and nothing else.

Sentences and tables are laid out here, and rich is imported for what moves or is highlighted only: its import alone takes a third
of the time of a short command.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import sysconfig
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from penstock.control.wording import Advance
from penstock.terminal.exits import NO
from shared.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 200
"""Columns when the output is no terminal: nothing is cut for a width that is not there."""


FOLDED_COLUMNS = 30
"""How narrow the last column of a table may become before the table is shown as records."""

SPEAK_EVERY_SECONDS = 5.0
"""How often a long step says where it is when there is no bar to look at, and something moved."""

SPEAK_AT_LEAST_EVERY_SECONDS = 30.0
"""How often it says that nothing moved."""


_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
"""Words of a style, as terminals read them."""
_MOVES_THE_CURSOR = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Control characters, but for tabulators and new lines, and characters that turn the direction of a line: what events hold must not write
elsewhere on the terminal, nor look as if it were something else.
"""


class Styled(NamedTuple):
    """A text in a style, such as `bold red`."""

    text: str
    style: str = ""


class Exact(str):
    """A number as it is written, to be copied: it stands right, and is neither rounded nor grouped."""


class Screen:
    """Standard output and error of one command."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.out = _Output("stdout")
        self.err = _Output("stderr")

    @property
    def is_terminal(self) -> bool:
        """True if a person watches and may answer."""
        return self.out.is_terminal and sys.stdin.isatty()

    def say(self, text: str, style: str = "") -> None:
        """Prints a sentence for people."""
        if not self.json:
            self.out.print(Styled(text, style))

    def source(self, text: str, language: str) -> None:
        """Prints a text for people, on a terminal with its syntax coloured."""
        if self.json or not self.out.is_terminal:
            self.say(text)
            return
        from rich.syntax import Syntax

        text = text.translate(_MOVES_THE_CURSOR)  # which rich would pass on
        self.out.console().print(Syntax(text, language, word_wrap=True, background_color="default"))

    def note(self, text: str, style: str = "dim") -> None:
        """Prints a sentence beside the result, on standard error, also with --json.

        Where the terminal is gone the note is left out: it matters less than the work.
        """
        with contextlib.suppress(OSError):
            self.err.print(Styled(text, style))

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
        if title:
            self.out.print(Styled(f"\n{title}", "bold"))
        if _needed(columns, kinds) > self.out.width:
            self._records(columns, kinds)
            return
        for line in _laid_out(columns, kinds, self.out.width):
            self.out.print(*line)
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

    def _records(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        margin = max(_cells(column) for column in columns) + 2
        for row in rows:
            self.out.print()
            for column, cell in zip(columns, row, strict=True):
                if _shown(cell).text:
                    self.out.print(Styled(f"{column:<{margin}}", "bold"), _shown(cell))

    @contextlib.contextmanager
    def progress(
        self, what: str, total: int | None = None, *, passing: bool = False, in_bytes: bool = False
    ) -> Iterator[Advance]:
        """Shows a bar while the context is open; where the output is no terminal, a line now and then and one at the end.

        Args:
            passing: the bar goes at the end, because what follows says it all.
            in_bytes: done and total are bytes; only their ratio is shown, and the note counts.
        """
        moving = self.err.is_terminal
        began, last = time.monotonic(), {"done": 0, "note": ""}
        spoke, said = began, ""
        with self._bar(what, total, passing=passing, in_bytes=in_bytes) if moving else contextlib.nullcontext() as bar:

            def advance(done: int, *, note: str = "", total: int | None = None) -> None:
                nonlocal spoke, said
                last.update(done=done, note=note)
                if bar is not None:
                    bar(done, note=note, total=total)
                elif (silent := time.monotonic() - spoke) >= SPEAK_EVERY_SECONDS:
                    text = f"{what}: {note}" if in_bytes else f"{what}: {done} so far {note}".rstrip()
                    if text != said or silent >= SPEAK_AT_LEAST_EVERY_SECONDS:
                        spoke, said = time.monotonic(), text
                        self.note(text)

            yield advance
        seconds = time.monotonic() - began
        if not moving and not self.json and not passing and seconds >= 1:
            done = "" if in_bytes else f"{last['done']} "
            self.note(f"{what}: {done}in {seconds:.1f} s {last['note']}".rstrip())

    @contextlib.contextmanager
    def _bar(self, what: str, total: int | None, *, passing: bool, in_bytes: bool) -> Iterator[Advance]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            TaskProgressColumn() if in_bytes else MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.err.console(),
            transient=passing,
        ) as bar:
            task = bar.add_task(what, total=total, note="")

            def advance(done: int, *, note: str = "", total: int | None = None) -> None:
                bar.update(task, completed=done, note=note, **({} if total is None else {"total": total}))  # type: ignore[arg-type]

            yield advance

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
                self.err.print(Styled("error: ", "bold red"), Styled(text))


def harmless(text: str) -> str:
    """Returns a text of any author that may be printed on a terminal."""
    return text.translate(_MOVES_THE_CURSOR)


def typed_command() -> str:
    """Returns what to type for `penstock` here: its path, where the environment it lives in is not active."""
    beside = Path(sysconfig.get_path("scripts")) / "penstock"
    found = shutil.which("penstock")
    if (found and Path(found) == beside) or not beside.exists():
        return "penstock"
    return os.path.relpath(beside)


class _Output:
    """Standard output or error, as it is when something is printed."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_terminal(self) -> bool:
        """True if a person watches."""
        return bool(getattr(sys, self._name).isatty())

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size().columns if self.is_terminal or "COLUMNS" in os.environ else PIPED_WIDTH

    def print(self, *parts: Styled) -> None:
        """Prints a line; styles show on a terminal only."""
        coloured = self.is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        text = "".join(_coloured(part) if coloured else harmless(part.text) for part in parts) + "\n"
        stream = getattr(sys, self._name)
        try:
            stream.write(text)
        except UnicodeEncodeError:  # another encoding than UTF-8, or half a surrogate
            stream.write(text.encode(stream.encoding, "replace").decode(stream.encoding))
        stream.flush()

    def console(self) -> Console:
        """Returns rich's view of it, for what moves or is highlighted."""
        from rich.console import Console

        return Console(stderr=self._name == "stderr", highlight=False)


def _coloured(part: Styled) -> str:
    text, codes = harmless(part.text), ";".join(_CODES[word] for word in part.style.split())
    return f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text


def _laid_out(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> Iterator[list[Styled]]:
    """Yields the lines of a table that fits."""
    cells = [[_shown(cell) for cell in row] for row in rows]
    right = [
        bool(rows) and all(isinstance(row[index], int | float | Exact | None) for row in rows) for index in range(len(columns))
    ]
    widths = [max(_cells(name), *(_cells(row[index].text) for row in cells), 0) for index, name in enumerate(columns)]
    widths[-1] = min(widths[-1], width - sum(widths[:-1]) - 3 * len(columns) + 1)
    yield []
    yield from _row([Styled(name, "bold") for name in columns], widths, right)
    yield [Styled(" " + "─" * (sum(widths) + 3 * len(widths) - 3))]
    for row in cells:
        yield from _row(row, widths, right)
    yield []


def _row(cells: Sequence[Styled], widths: Sequence[int], right: Sequence[bool]) -> Iterator[list[Styled]]:
    pieces = [_broken(cell.text, width) for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(len(lines) for lines in pieces)):
        line: list[Styled] = []
        for index, (cell, lines) in enumerate(zip(cells, pieces, strict=True)):
            text = lines[number] if number < len(lines) else ""
            space = " " * (widths[index] - _cells(text))
            before = (" " if index == 0 else "   ") + (space if right[index] else "")
            after = "" if right[index] or index == len(cells) - 1 else space
            line += [Styled(before), Styled(text, cell.style), Styled(after)]
        yield line


def _broken(text: str, width: int) -> list[str]:
    """Returns the lines of a cell, broken between words, and within a word that is longer than a line."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            joined = f"{line} {word}" if line else word
            if _cells(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            while _cells(word) > width:
                fits = next(count for count in range(len(word), 0, -1) if count == 1 or _cells(word[:count]) <= width)
                lines.append(word[:fits])
                word = word[fits:]
            line = word
        lines.append(line)
    return lines


def _cells(text: str) -> int:
    """Returns how many columns a text takes on a terminal."""
    if "\n" in text:
        return max(_cells(line) for line in text.split("\n"))
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def _needed(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    """Returns the width of a table. The last column is the one with sentences: it may break, the others may not."""
    widths = [max(_cells(column), *(_cells(_shown(row[index]).text) for row in rows), 0) for index, column in enumerate(columns)]
    return sum(widths[:-1]) + min(widths[-1], FOLDED_COLUMNS) + 3 * len(columns)


def _shown(cell: object) -> Styled:
    if isinstance(cell, Styled):
        return cell
    if cell is None:
        return Styled("-")
    if isinstance(cell, bool):
        return Styled("yes" if cell else "no")
    if isinstance(cell, int):
        return Styled(f"{cell:,}".replace(",", " "))
    if isinstance(cell, float):
        return Styled(f"{cell:.1f}")
    return Styled(str(cell).translate(_MOVES_THE_CURSOR))
