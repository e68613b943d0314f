"""`penstock up` and `down`: the local stack in the foreground or in a separate session."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click
from click.core import ParameterSource

from penstock.command.dotenv import with_dotenv
from penstock.command.stopping import stop_running
from penstock.stack.home import stack_environment
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_home


@click.command()
@click.option("--detach", is_flag=True, help="Return when everything is ready; the stack runs on.")
@click.option(
    "--port-base", type=Integer(1, 65_000), metavar="N",
    help="Six ports from N on: events, broker, monitor, admin pages. One that is taken is an error. Default: 8080 for events, "
         "4222 for the broker, and so on; the next free one when taken.",
)  # fmt: skip
@click.option("--port", type=Integer(1, 65_535), metavar="N", envvar="PENSTOCK_INGEST_PORT", help="Port for events.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, envvar="PENSTOCK_INGEST_HOST", metavar="ADDRESS",
    help="Interface for events. 0.0.0.0 takes them from other machines: give the sites' keys secrets or `origins` first.",
)  # fmt: skip
@click.option("--project", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Apply this file once it runs.")
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
    demo: bool,
    exit_after_demo: bool,
) -> int:
    """Starts the local stack: nats-server with synced writes, ingest, router and loader, one process each.

    --home has all data. The stack restarts processes that die. Ctrl-C stops it in order, a second one at once. It takes events
    from this machine only, unless --host says otherwise.

    \b
    Examples:
      penstock up --project examples/shop/penstock.yaml --demo
      penstock up --detach --home /var/lib/penstock --port-base 9000
    """
    # imported here: `down` needs none of it
    from penstock.command.detach import start_detached
    from penstock.command.foreground import Wishes, run_foreground
    from penstock.control.project.projects import check_document, read_document

    asked = click.get_current_context().get_parameter_source("exit_after_demo")
    if exit_after_demo and not demo and asked is ParameterSource.COMMANDLINE:
        raise click.UsageError("--exit-after-demo stops the stack after the demo; add --demo")
    if project is not None:
        # a wrong file is found before any process starts
        environment = {**os.environ, **stack_environment(setting.home)}
        check_document(read_document(project), with_dotenv(environment, project.parent))
    wishes = Wishes(port_base=port_base, port=port, host=host, project=project, demo=demo, exit_after_demo=exit_after_demo)
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
