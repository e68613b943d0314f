"""`penstock logs`: the logs of the local stack's processes."""

from __future__ import annotations

import click

from penstock.stack.logs import LEVELS, Line, follow, last_lines, logs_of
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_home
from penstock.terminal.screen import Screen, Styled
from shared.errors import SetupError

STYLES = {"error": "red", "warning": "yellow", "debug": "dim"}


@click.command()
@click.argument("processes", nargs=-1, metavar="[PROCESS]...")
@click.option("--last", type=Integer(0, 1_000_000), default=50, show_default=True, help="Lines to begin with.")
@click.option("--follow", "-f", "go_on", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="Only lines of at least this level.")
@at_home
def logs(setting: Setting, processes: tuple[str, ...], last: int, go_on: bool, level: str) -> int:
    """Prints the logs of the stack in --home, in the order of time: of all processes, or of PROCESS (nats, ingest, router,
    loader, or supervisor, which starts the others in a stack that was started with --detach).

    \b
    Examples:
      penstock logs --level warning
      penstock logs -f loader
    """
    if not setting.home.logs.exists():
        raise SetupError(f"there are no logs in {setting.home.logs}; name the folder of the stack with --home")
    found = logs_of(setting.home.logs, processes)
    for line in last_lines(found, last, level):
        _print(setting.screen, line)
    if go_on:
        for line in follow(found, level, lambda: False):
            _print(setting.screen, line)
    return exits.OK


def _print(screen: Screen, line: Line) -> None:
    if screen.json:
        screen.line(line._asdict())
        return
    at = line.at[:23].replace("T", " ").removesuffix("Z").removesuffix("+00:00")
    style = STYLES.get(line.level, "")
    screen.out.print(Styled(f"{at:<23} ", "dim"), Styled(f"{line.process:<10} "), Styled(f"{line.level:<7} {line.text}", style))
