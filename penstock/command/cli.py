"""The `penstock` command: its groups, and how it ends with errors.

An expected error prints one line with the thing, the place and the next step, and ends the command with a code of `exits.py`; a
traceback is a defect. Shell completion comes with click: `eval "$(_PENSTOCK_COMPLETE=bash_source penstock)"` (also zsh_source,
fish_source).
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import gc
import importlib
import logging
import os
import sys
from pathlib import Path

import click

from penstock.command.dotenv import load_dotenv, misspelt
from penstock.postponed import postpone
from penstock.terminal import exits
from penstock.terminal.screen import Screen
from shared.errors import PenstockError, SetupError
from shared.tasks import first_of

EPILOG = f"""\b
Exit codes:
{chr(10).join(f"  {code:>3}  {meaning}" for code, meaning in exits.MEANINGS.items())}

\b
Shell completion (bash, zsh or fish):
  eval "$(_PENSTOCK_COMPLETE=bash_source penstock)"

\b
Example, a stack with the sample shop and then its state:
  penstock up --detach --project examples/shop/penstock.yaml --demo
  penstock status
"""


COMMANDS = {
    "init": ("init", "Write a project file to begin with."),
    "up": ("up", "Start the local stack."),
    "down": ("up", "Stop the local stack."),
    "plan": ("project", "Show what applying a project file would change."),
    "apply": ("project", "Make a project file the one that runs."),
    "history": ("project", "List the revisions of the project."),
    "rollback": ("project", "Apply an earlier revision again."),
    "export": ("export", "Print the project that runs."),
    "check": ("project", "Try destinations: reach, create, write, read, replace, drop."),
    "status": ("status", "Show every connection in one line."),
    "resume": ("resume", "Let a connection go on after its dead letters stopped it."),
    "query": ("query", "Ask a destination a question in SQL."),
    "logs": ("up", "Print the logs of the local stack."),
    "send": ("events", "Send a file of events through the edge."),
    "tail": ("events", "Print accepted events, old and new ones."),
    "dead": ("dead", "List, show, replay, export and purge dead letters."),
    "warnings": ("warnings", "Show what happened to events that a person may want to know."),
    "replay": ("replay", "Send accepted events of a range to their connections again."),
    "forget": ("forget", "Forget a person: leave out their events, remove what is stored."),
    "catalog": ("catalog", "Show which events and properties sites have sent."),
    "suppress": ("suppress", "Leave out the events of people from now on; remove nothing."),
    "rebuild": ("runs", "Load all events of a wiped destination again."),
    "runs": ("runs", "List, show, pause, resume and cancel what takes long."),
    "archive": ("archive", "Show how far sites are archived, verify their archives."),
    "explain": ("events", "Show what every connection would do with an event, without a stack."),
    "fn": ("fn", "Write, run and test functions, without a stack."),
    "load": ("load", "Load rows of a file into a table."),
    "connector": ("connector", "Ask connectors, and read their rows, without a stack."),
    "sync": ("sync", "Run syncs, look at their runs, cancel, reset."),
    "alerts": ("alerts", "List what alerts tell of, send test messages, silence."),
    "deploy": ("deploy", "Write the files of a cluster: compose.yaml and deploy/."),
    "bench": ("bench", "Run the benchmarks of a checkout."),
}
"""Each command, its module in `verbs/`, and its line in the overview."""


class LazyGroup(click.Group):
    """Imports a command only when it is needed: importing all of them takes longer than most of them run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Returns the names, in the order of the overview."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """Imports and returns the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"penstock.command.verbs.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolves as click does; an error suggests the closest name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"{exc.message} {hint}", ctx) from exc

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """Writes the overview without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in COMMANDS.items()])


postpone("aiohttp")  # before any command brings the broker's client

_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
"""Errors of a full disk behind `> file`, and of a closed terminal."""


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="penstock")
def cli() -> None:
    """Events in over HTTP and WebSocket, through JetStream, exactly once into warehouses and files."""


def main() -> None:
    """Runs the command and exits the process."""
    gc.set_threshold(50_000, 20, 100)  # most objects of a command live as long as the command
    # `penstock status >&-`: there is no output to write to
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # open as long as the process
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs the command with these arguments; returns its exit code."""
    screen = Screen(json="--json" in arguments)
    # logs of libraries are no result; faults are raised
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        load_dotenv(Path.cwd())
        for warning in misspelt(Path.cwd()):
            screen.note(f"warning: {warning}", "yellow")
        code = cli.main(arguments, prog_name="penstock", standalone_mode=False)
        sys.stdout.flush()  # here, where an error can be shown
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        screen.note("interrupted")
        return exits.INTERRUPTED
    except click.ClickException as exc:
        if screen.json:
            screen.fail(exc, exc.exit_code)
        else:
            exc.show()
        return exc.exit_code
    except (BrokenPipeError, SystemExit):  # `penstock tail | head`; click makes the latter of the former
        _give_up_output()
        return exits.OK
    except PenstockError as exc:
        return _fail(screen, exc)
    except BaseExceptionGroup as group:
        first = first_of(group)
        if isinstance(first, PenstockError):
            return _fail(screen, first)
        if isinstance(first, click.exceptions.Exit):
            return first.exit_code
        if isinstance(first, BrokenPipeError):
            _give_up_output()
            return exits.OK
        raise
    except OSError as exc:
        if exc.errno not in _OUTPUT_ERRORS:
            raise
        _give_up_output()
        return _fail(screen, SetupError(f"the output cannot be written: {exc.strerror}"))
    return code if isinstance(code, int) else exits.OK


def _give_up_output() -> None:
    """Keeps the interpreter from flushing to a broken output."""
    with contextlib.suppress(OSError, ValueError):  # no real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(screen: Screen, error: PenstockError) -> int:
    code = exits.exit_code(error)
    screen.fail(error, code)
    return code
