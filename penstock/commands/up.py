"""`penstock up` and `down`: the local stack in the foreground or in a session of its own."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from penstock import exits
from penstock.home import stack_environment
from penstock.options import Setting, at_home
from penstock.stopping import stop_running


@click.command()
@click.option("--detach", is_flag=True, help="Return when everything is ready; the stack runs on.")
@click.option(
    "--port-base", type=click.IntRange(1, 65_000), metavar="N",
    help="Ports from N on: ingest, broker, monitor, admin pages. Default: ingest 8080, broker 4222; the next free one when taken.",
)  # fmt: skip
@click.option("--project", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Apply this file once it runs.")
@click.option("--demo", is_flag=True, help="Send a few thousand sample events and show what arrives; needs the sample project.")
@click.option("--exit-after-demo", is_flag=True, envvar="PENSTOCK_UP_ONCE", help="Stop after the demo instead of staying up.")
@at_home
def up(setting: Setting, detach: bool, port_base: int | None, project: Path | None, demo: bool, exit_after_demo: bool) -> int:
    """Starts the local stack: nats-server with synced writes, ingest, router and loader, one process each.

    Everything is kept in --home. Processes that die are started again; Ctrl-C stops them in order, a second one at once.

    \b
    Examples:
      penstock up --project examples/shop/penstock.yaml --demo
      penstock up --detach --home /var/lib/penstock --port-base 9000
    """
    # imported here: `down` needs none of it
    from penstock.detach import start_detached
    from penstock.foreground import Wishes, run_foreground
    from penstock.projects import check_document, read_document

    if project is not None:
        # found before anything starts: a wrong file
        check_document(read_document(project), {**os.environ, **stack_environment(setting.home)})
    wishes = Wishes(port_base=port_base, project=project, demo=demo, exit_after_demo=exit_after_demo)
    if detach:
        start_detached(setting, wishes)
    else:
        asyncio.run(run_foreground(setting, wishes))
    return exits.OK


@click.command()
@at_home
def down(setting: Setting) -> int:
    """Stops the stack that runs in --home, in order: nothing that was accepted is lost.

    \b
    Example:
      penstock down --home .penstock
    """
    stopped = stop_running(setting)
    setting.screen.result({"home": str(setting.home.folder), "stopped": stopped})
    return exits.OK
