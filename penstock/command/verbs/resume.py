"""`penstock resume`: lets a connection go on after its dead letters stopped it."""

from __future__ import annotations

import asyncio

import click

from penstock.control.reach import open_broker
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from shared.errors import ConfigError, Problem
from shared.project.shards import shard_names
from shared.project.snapshot import current_snapshot
from shared.reading.decode import meant
from shared.reading.units import Duration


class Period(click.ParamType[float]):
    """A time such as 10m."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(Duration.parse(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


@click.command()
@click.argument("connection")
@click.option(
    "--without-limit",
    type=Period(),
    default=0.0,
    help="How long the limit does not hold; events that die then become dead letters.",
)
@at_broker
def resume(setting: Setting, connection: str, without_limit: float) -> int:
    """Lets CONNECTION go on after it stopped because most of its events became dead letters.

    Correct the cause first: the connection begins with the events at which it stopped, and stops again if they die. With
    --without-limit they become dead letters, which `penstock dead replay` sends again later.

    \b
    Example:
      penstock resume shop-wh
      penstock resume shop-wh --without-limit 10m
    """
    resumed = asyncio.run(_resume(setting, connection, without_limit))
    setting.screen.result({"connection": connection, "resumed": resumed})
    if resumed:
        setting.screen.say(f"{connection} goes on", "green")
    else:
        setting.screen.say(f"{connection} is not stopped", "yellow")
    return exits.OK if resumed else exits.NO


async def _resume(setting: Setting, connection: str, free_seconds: float) -> bool:
    from loader.watch.stop import resume as let_go_on  # brings what --help does not need

    async with open_broker(setting.reach()) as broker:
        snapshot = await current_snapshot(broker)
        known = snapshot.project.connections
        if connection not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ConfigError([Problem("", f"no connection is named {connection!r};{meant(connection, known)} known: {names}")])
        shards = shard_names(known, connection)
        return any([await let_go_on(broker, snapshot.queue_of(each), free_seconds) for each in shards])
