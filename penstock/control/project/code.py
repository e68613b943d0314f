"""The files of functions: read beside a project file, compared, and written again where a project is exported.

A document holds the names of the files, as its author wrote them. What is applied holds their text too, so that a revision is whole:
it can be rolled back to, and exported, when the files have changed or are gone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shared.errors import Problem, SetupError
from shared.project.functions import MOST_CODE_BYTES, with_code

SHOWN_LINES = 20
"""Lines of a difference that a plan shows."""


def read_functions(document: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Returns a document with the text of its functions' files, and what is wrong with them.

    Args:
        folder: where the project file is.
    """
    code: dict[str, str] = {}
    problems: list[Problem] = []
    for name, function in _functions(document):
        path, file = f"functions.{name}", function.get("file")
        if not isinstance(file, str):
            continue
        if "code" in function:
            problems.append(Problem(path, "has a `file` and `code`; leave one out"))
            continue
        try:
            code[name] = _read(folder / file)
        except ValueError as exc:
            problems.append(Problem(f"{path}.file", f"{folder / file} {exc}"))
    return with_code(document, code), problems


def _read(file: Path) -> str:
    """Returns the text of a file; raises ValueError with what is wrong."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_CODE_BYTES + 1)
        if len(content) > MOST_CODE_BYTES:
            raise ValueError(f"is larger than the {MOST_CODE_BYTES} bytes that a function may have")
        return content.decode("utf-8")
    except OSError as exc:
        raise ValueError(f"cannot be read: {exc.strerror}; its path begins where the project file is") from exc
    except UnicodeDecodeError as exc:
        raise ValueError(f"is not UTF-8 text (byte {exc.start})") from exc


def difference(before: str, after: str) -> list[str]:
    """Returns the lines that were taken out (`-`) and put in (`+`), with the place of each run; at most so many as a plan shows."""
    lines = [
        line.rstrip()
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
        if not line.startswith(("---", "+++"))
    ]
    left = len(lines) - SHOWN_LINES
    return [*lines[:SHOWN_LINES], f"and {left} more lines"] if left > 0 else lines


def write_functions(resolved: Mapping[str, Any], folder: Path) -> list[str]:
    """Writes the files of a project's functions into a folder; returns a line for each that it leaves as it is.

    A file that is there is not written over, and none is written outside of the folder.

    Raises:
        SetupError: a file cannot be written.
    """
    left: list[str] = []
    for name, function in _functions(resolved):
        file, code = function.get("file"), function.get("code")
        if not isinstance(file, str) or not isinstance(code, str):
            continue
        place = folder / file
        if not place.resolve().is_relative_to(folder.resolve()):
            left.append(f"functions.{name}: {file} is outside of {folder}, so it was not written")
            continue
        try:
            if place.exists():
                if place.read_bytes() != code.encode():
                    left.append(f"functions.{name}: {place} is there already with other text, so it was not written")
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(code, encoding="utf-8", newline="")
        except OSError as exc:
            raise SetupError(f"{place} cannot be written: {exc.strerror}") from exc
    return left


def code_of(resolved: Mapping[str, Any], name: str) -> str:
    """Returns the code of a function; empty where it has none."""
    return str(dict(_functions(resolved)).get(name, {}).get("code") or "")


def _functions(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    functions = document.get("functions")
    if isinstance(functions, dict):
        yield from ((str(name), each) for name, each in functions.items() if isinstance(each, dict))
