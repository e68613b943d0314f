"""The command as a whole: help, exit codes and errors, in this process and without a stack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from penstock.command.cli import cli, run
from penstock.terminal import exits
from penstock.terminal.exits import exit_code
from shared.errors import ConfigError, Conflict, NotConnected, PenstockError, Permanent, QueueFull, SetupError, Transient


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PENSTOCK_NATS_URL", "PENSTOCK_HOME", "PENSTOCK_EDGE_URL", "PENSTOCK_KEY"):
        monkeypatch.delenv(name, raising=False)


def commands(group: click.Group, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))
        else:
            yield (*names, name), command


EVERY = list(commands(cli))


@pytest.mark.parametrize(("names", "command"), EVERY, ids=[" ".join(names) for names, _ in EVERY])
def test_every_command_has_help_with_an_example_and_speaks_json(
    names: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*names, "--help"]) == exits.OK
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"penstock {' '.join(names)}" in text
    assert "--json" in text
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_the_help_tells_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    text = capsys.readouterr().out
    for code, meaning in exits.MEANINGS.items():
        assert f"{code:>3}  {meaning}" in text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError([]), 2), (NotConnected(""), 3), (QueueFull(""), 3), (Transient(""), 3), (SetupError(""), 4), (Conflict(""), 5),
        (Permanent(""), 1), (PenstockError(""), 1),
    ],
)  # fmt: skip
def test_every_error_has_its_exit_code(error: PenstockError, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["tail"], ["export"], ["dead", "list"], ["check"], ["send", "-"], ["replay", "--site", "s", "--from", "1h"]],
)
def test_without_a_stack_a_command_says_how_to_get_one(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == exits.SETUP
    assert "penstock up" in capsys.readouterr().err


def test_a_broker_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.control.reach.PATIENCE_SECONDS", 0.1)
    assert run(["status", "--url", "nats://user:hunter2@127.0.0.1:1"]) == exits.UNREACHABLE
    error = capsys.readouterr().err
    assert "127.0.0.1:1" in error
    assert "hunter2" not in error


def test_errors_are_json_when_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--json"]) == exits.SETUP
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["error"]["exit_code"] == exits.SETUP


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["status", "--nope"],
        ["dead", "purge"],
        ["dead", "replay"],
        ["dead", "show", "x"],
        ["dead", "show", "\u00b2"],
        ["replay", "--site", "s"],
        ["replay", "--site", "s", "--from", "1h", "--from-seq", "3"],
        ["replay", "--site", "s", "--from", "1h", "--to", "2h"],
        ["replay", "--site", "s", "--from-seq", "2", "--to-seq", "1"],
        ["dead", "list", "--since", "yesterday"],
        ["dead", "list", "--reason", "bad_luck"],
    ],
)
def test_wrong_usage_is_told_apart(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == exits.WRONG_INPUT
    assert capsys.readouterr().err


def test_wrong_usage_is_json_too_when_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--nope", "--json"]) == exits.WRONG_INPUT
    captured = capsys.readouterr()
    assert captured.out == ""
    error = json.loads(captured.err)["error"]
    assert "--nope" in error["message"]
    assert error["exit_code"] == exits.WRONG_INPUT


def test_a_mistyped_command_is_told_what_it_may_have_been(capsys: pytest.CaptureFixture[str]) -> None:
    run(["statsu"])
    assert "'status'" in capsys.readouterr().err
    run(["frobnicate"])
    assert "up, down, plan" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["bench"], ["bench", "--json"]])
@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ('exec 3>&1; { "$@" 1>&4; echo $? >&3; } 4>&1 | :', exits.OK, ""),
        ('"$@" >&-; echo $?', exits.OK, ""),
        ('"$@" >/dev/full; echo $?', exits.SETUP, "No space left"),
    ],
    ids=["nobody reads", "closed", "full"],
)
def test_output_that_has_nowhere_to_go_is_no_traceback(
    shell: str, code: int, said: str, arguments: list[str], tmp_path: Path
) -> None:
    command = ["sh", "-c", shell, "sh", sys.executable, "-m", "penstock", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(code)
    assert "Traceback" not in done.stderr
    assert (said in done.stderr) if said else not done.stderr


def test_stopping_where_nothing_runs_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["down"]) == exits.OK
    assert "no stack runs" in capsys.readouterr().out


def test_a_wrong_project_file_is_found_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("connections: {a: {site: nowhere, destination: nothing}}")
    assert run(["up", "--project", str(file)]) == exits.WRONG_INPUT
    assert "connections.a.site" in capsys.readouterr().err
    assert not (tmp_path / ".penstock").exists()


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_mistakes_of_a_file_are_told_also_where_no_stack_runs(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "penstock.yaml"
    file.write_text("connections: {a: {site: nowhere, destination: nothing}}")
    assert run([command, str(file)]) == exits.WRONG_INPUT
    assert "connections.a.site" in capsys.readouterr().err
    file.write_text("destinations: {lake: {type: local, path: '${PENSTOCK_HOME}/lake'}}")
    assert run([command, str(file)]) == exits.SETUP
    assert "has no mistake, but no stack runs" in capsys.readouterr().err


def test_a_file_can_be_checked_before_its_stack_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "penstock.yaml"
    file.write_text("destinations: {lake: {type: local, path: '${PENSTOCK_HOME}/lake'}}")
    assert run(["check", "--file", str(file), "--json"]) == exits.OK, capsys.readouterr().err
    assert (tmp_path / ".penstock" / "lake").is_dir()
