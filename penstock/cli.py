"""The `penstock` command: its groups, and what becomes of errors.

Expected errors print one line each, with the thing, the place and the next step, and end with a code of `exits.py`; a traceback
is a defect. Shell completion comes with click: `eval "$(_PENSTOCK_COMPLETE=bash_source penstock)"` (also zsh_source,
fish_source).
"""

from __future__ import annotations

import logging
import sys

import click

from penstock import exits
from penstock.commands import bench, dead, events, project, replay, status, up
from penstock.screen import Screen
from shared.errors import PenstockError
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


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="penstock")
def cli() -> None:
    """Events in over HTTP and WebSocket, through JetStream, exactly once into warehouses and files."""


for command in (
    up.up, up.down, project.plan, project.apply, project.export, project.check, status.status,
    events.send, events.tail, dead.dead, replay.replay, bench.bench,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Runs the command and exits the process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs the command with these arguments; returns its exit code."""
    screen = Screen(json="--json" in arguments)
    # what a library logs on the way is no result; what matters is raised
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        code = cli.main(arguments, prog_name="penstock", standalone_mode=False)
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        screen.note("interrupted")
        return exits.INTERRUPTED
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except BrokenPipeError:  # `penstock tail | head`
        sys.stderr.close()
        return exits.OK
    except PenstockError as exc:
        return _fail(screen, exc)
    except BaseExceptionGroup as group:
        first = first_of(group)
        if isinstance(first, PenstockError):
            return _fail(screen, first)
        raise
    return code if isinstance(code, int) else exits.OK


def _fail(screen: Screen, error: PenstockError) -> int:
    code = exits.exit_code(error)
    screen.fail(error, code)
    return code
