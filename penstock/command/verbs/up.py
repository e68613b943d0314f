"""`penstock up`, `down` and `logs`: the local stack in the foreground or in a separate session, and the logs of its processes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click
from click.core import ParameterSource

from penstock.command.dotenv import with_dotenv
from penstock.command.stopping import stop_running
from penstock.stack.home import stack_environment
from penstock.stack.logs import LEVELS, Line, follow, last_lines, logs_of
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_home
from penstock.terminal.screen import Screen, Styled
from shared.errors import SetupError

STYLES = {"error": "red", "warning": "yellow", "debug": "dim"}


@click.command()
@click.option("--detach", is_flag=True, help="Return when everything is ready; the stack runs on.")
@click.option(
    "--port-base", type=Integer(1, 65_000), metavar="N",
    help="Eight ports from N on: events, broker, monitor, admin pages. One that is taken is an error. Default: 8080 for events, "
         "4222 for the broker, and so on; the next free one when taken.",
)  # fmt: skip
@click.option("--port", type=Integer(1, 65_535), metavar="N", envvar="PENSTOCK_INGEST_PORT", help="Port for events.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, envvar="PENSTOCK_INGEST_HOST", metavar="ADDRESS",
    help="Interface for events. 0.0.0.0 takes them from other machines: give the sites' keys secrets or `origins` first.",
)  # fmt: skip
@click.option("--project", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Apply this file once it runs.")
@click.option(
    "--cluster", "nodes", type=Integer(3, 5), metavar="N",
    help="N brokers with three copies of each stream, users and their rights, and two processes of each service.",
)  # fmt: skip
@click.option("--tls", is_flag=True, help="With --cluster: TLS to and between the brokers, with certificates made here.")
@click.option("--demo", is_flag=True, help="Send a few thousand sample events and show what arrives; needs the sample project.")
@click.option("--exit-after-demo", is_flag=True, envvar="PENSTOCK_UP_ONCE", help="Stop after the demo instead of staying up.")
@at_home
def up(
    setting: Setting,
    detach: bool,
    port_base: int | None,
    port: int | None,
    host: str,
    project: Path | None,
    nodes: int | None,
    tls: bool,
    demo: bool,
    exit_after_demo: bool,
) -> int:
    """Starts the local stack: nats-server with synced writes, ingest, router, functions_runtime, loader and
    connector_runner, one process each.

    --home has all data. The stack restarts processes that die. Ctrl-C stops it in order, a second one at once. It takes events
    from this machine only, unless --host says otherwise.

    \b
    Examples:
      penstock up --project examples/shop/penstock.yaml --demo
      penstock up --detach --home /var/lib/penstock --port-base 9000
      penstock up --cluster 3 --tls --home /var/lib/penstock-cluster
    """
    # imported here: `down` needs none of it
    from penstock.command.detach import start_detached
    from penstock.command.foreground import Wishes, run_foreground
    from penstock.control.project.projects import check_document, read_document

    asked = click.get_current_context().get_parameter_source("exit_after_demo")
    if exit_after_demo and not demo and asked is ParameterSource.COMMANDLINE:
        raise click.UsageError("--exit-after-demo stops the stack after the demo; add --demo")
    if tls and not nodes:
        raise click.UsageError("--tls is for the brokers of a cluster; add --cluster 3")
    if project is not None:
        # a wrong file is found before any process starts
        environment = {**os.environ, **stack_environment(setting.home)}
        check_document(read_document(project), with_dotenv(environment, project.parent), project.parent)
    wishes = Wishes(
        port_base=port_base,
        port=port,
        host=host,
        project=project,
        demo=demo,
        exit_after_demo=exit_after_demo,
        nodes=nodes or 0,
        tls=tls,
    )
    if detach:
        start_detached(setting, wishes)
    else:
        asyncio.run(run_foreground(setting, wishes))
    return exits.OK


@click.command()
@at_home
def down(setting: Setting) -> int:
    """Stops the stack that runs in --home, in order: no accepted event is lost.

    \b
    Example:
      penstock down --home .penstock
    """
    stopped = stop_running(setting)
    setting.screen.result({"home": str(setting.home.folder), "stopped": stopped})
    return exits.OK


@click.command()
@click.argument("processes", nargs=-1, metavar="[PROCESS]...")
@click.option("--last", type=Integer(0, 1_000_000), default=50, show_default=True, help="Lines to begin with.")
@click.option("--follow", "-f", "go_on", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="Only lines of at least this level.")
@at_home
def logs(setting: Setting, processes: tuple[str, ...], last: int, go_on: bool, level: str) -> int:
    """Prints the logs of the stack in --home, in the order of time: of all processes, or of PROCESS (nats, ingest, router,
    functions_runtime, loader, or supervisor, which starts the others in a stack that was started with --detach).

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
