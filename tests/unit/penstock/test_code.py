"""The files of functions: read beside the project file, compared in a plan, and written again by an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.control.project.code import SHOWN_LINES, difference, read_functions, write_functions
from penstock.control.project.plan import Change, compare, inline_secrets, mask
from penstock.control.project.projects import check_document
from shared.errors import ConfigError

DOCUMENT: dict[str, Any] = {
    "sites": {"shop": {}},
    "destinations": {"wh": {"type": "duckdb", "path": "x"}},
    "functions": {"clean": {"file": "fn/clean.js"}},
    "connections": {"c": {"site": "shop", "destination": "wh", "functions": ["clean"]}},
}


def write(folder: Path, text: str | bytes) -> None:
    (folder / "fn").mkdir(exist_ok=True)
    (folder / "fn/clean.js").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_the_text_of_a_file_travels_with_the_project_and_not_in_the_document(tmp_path: Path) -> None:
    write(tmp_path, "export default e => `${e.type}`\r\n")
    resolved = check_document(DOCUMENT, {}, tmp_path)
    assert resolved["functions"]["clean"] == {"file": "fn/clean.js", "code": "export default e => `${e.type}`\r\n"}
    assert DOCUMENT["functions"]["clean"] == {"file": "fn/clean.js"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file or directory; its path begins where the project file is"),
        (b"x" * 262_145, "is larger than the 262144 bytes that a function may have"),
        (b"let a = '\xe4'", "is not UTF-8 text (byte 9)"),
        (b"", "the code is empty"),
    ],
)
def test_a_file_that_cannot_be_a_function_is_named(content: bytes | None, expected: str, tmp_path: Path) -> None:
    if content is not None:
        write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        check_document(DOCUMENT, {}, tmp_path)
    (problem,) = caught.value.problems
    assert problem.path == "functions.clean.file"
    assert expected in str(problem)


def test_a_function_has_a_file_or_code() -> None:
    _, problems = read_functions({"functions": {"f": {"file": "f.js", "code": "1"}}}, Path())
    assert [str(problem) for problem in problems] == ["functions.f: has a `file` and `code`; leave one out"]


def test_a_changed_file_is_a_change_with_the_lines_that_differ() -> None:
    before = {"functions": {"clean": {"file": "fn/clean.js", "code": "a\nb\nc\n"}}}
    after = {"functions": {"clean": {"file": "fn/clean.js", "code": "a\nB\nc\n"}}}
    found = compare(DOCUMENT, DOCUMENT, before, after)
    assert found == [Change(path="functions.clean.code", kind="change", lines=["@@ -2 +2 @@", "-b", "+B"])]
    inline = {"functions": {"f": {"code": "a\n"}}}, {"functions": {"f": {"code": "b\n"}}}
    assert compare(*inline, *inline) == [Change(path="functions.f.code", kind="change", lines=["@@ -1 +1 @@", "-a", "+b"])]
    assert compare(DOCUMENT, DOCUMENT, before, before) == []


def test_a_long_difference_is_cut() -> None:
    lines = difference("", "\n".join(map(str, range(100))))
    assert lines[-1] == f"and {101 - SHOWN_LINES} more lines"


def test_what_functions_and_rules_are_given_is_masked() -> None:
    connection = {
        "functions_env": {"TOKEN": "a", "MODE": "b", "FROM": "${X}", "NUMBER": 5},
        "privacy": [{"field": "a", "do": "hash", "secret": "s"}, {"field": "b", "do": "encrypt", "key": "k"}],
        "where": [{"field": "key", "eq": "shown"}],
    }
    masked = mask({"connections": {"c": connection}})["connections"]["c"]
    assert masked["functions_env"] == {"TOKEN": "***", "MODE": "***", "FROM": "${X}", "NUMBER": 5}
    assert [rule.get("secret", rule.get("key")) for rule in masked["privacy"]] == ["***", "***"]
    assert masked["where"] == connection["where"]
    after = {"connections": {"c": {**connection, "functions_env": {"TOKEN": "other"}}}}
    assert "other" not in str(compare({"connections": {"c": connection}}, after))


def test_words_in_code_are_no_secrets() -> None:
    assert inline_secrets({"functions": {"f": {"code": "const password = 'x'; fetch('https://u:p@h/')"}}}) == []


def test_an_export_writes_files_that_are_missing_and_no_others(tmp_path: Path) -> None:
    resolved = {
        "functions": {
            "new": {"file": "fn/new.js", "code": "new\r\n"},
            "same": {"file": "same.js", "code": "same"},
            "other": {"file": "other.js", "code": "mine"},
            "outside": {"file": "../outside.js", "code": "x"},
            "inline": {"code": "x"},
        }
    }
    (tmp_path / "same.js").write_text("same")
    (tmp_path / "other.js").write_text("theirs")
    left = write_functions(resolved, tmp_path)
    assert [line.partition(":")[0] for line in left] == ["functions.other", "functions.outside"]
    assert (tmp_path / "fn/new.js").read_bytes() == b"new\r\n"
    assert (tmp_path / "other.js").read_text() == "theirs"
    assert not (tmp_path.parent / "outside.js").exists()


def test_what_says_how_functions_run_means_nothing_without_them() -> None:
    document = {**DOCUMENT, "functions": {}, "connections": {"c": {"site": "shop", "destination": "wh", "on_error": "drop"}}}
    with pytest.raises(ConfigError) as caught:
        check_document(document, {})
    assert [str(problem) for problem in caught.value.problems] == [
        "connections.c.on_error: means nothing without `functions`; take it out"
    ]
