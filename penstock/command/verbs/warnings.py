"""`penstock warnings`."""

from __future__ import annotations

import asyncio
import time

import click

from penstock.control.moments import Moment
from penstock.control.reach import open_broker
from penstock.control.status.warned import Shown, Wanted, read_all, show
from penstock.control.wording import counted, cut
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from shared.reading.moments import shown
from shared.warnings.declared import BY_REASON

DAY_SECONDS = 86_400.0
SHOWN_SAMPLE = 60


@click.command()
@click.option("--site", help="Only warnings of this site.")
@click.option("--connection", help="Only warnings of this connection.")
@click.option("--reason", type=click.Choice(list(BY_REASON)), metavar="REASON", help="Only this reason (docs/reasons.md).")
@click.option("--since", type=Moment(), help="Only since then; default: 1d, a day ago.")
@click.option("--until", type=Moment(), help="Only until then.")
@at_broker
def warnings(
    setting: Setting, site: str | None, connection: str | None, reason: str | None, since: float | None, until: float | None
) -> int:
    """Shows what happened to events on their way that a person may want to know: by site, connection and reason, how many, when, a
    sample, and what to do.

    Each service counts, and tells once a minute; so a warning is seen up to a minute later. They are kept for 30 days.

    \b
    Example:
      penstock warnings --site shop --since 7d
    """
    if since is not None and until is not None and until < since:
        raise click.UsageError("--until is before --since, so no warning can match")
    wanted = Wanted(
        site=site,
        connection=connection,
        reason=reason,
        since=time.time() - DAY_SECONDS if since is None else since,
        until=until,
    )
    found = asyncio.run(_read(setting, wanted))
    setting.screen.result({"warnings": found})
    if not found:
        setting.screen.say("no warnings" if since is None else "no warning matches")
        return exits.OK
    columns = ("site", "connection", "reason", "count", "first (UTC)", "last (UTC)", "sample")
    rows = [
        (
            each.site,
            each.connection or "-",
            each.reason,
            counted(each.count, each.unit.removesuffix("s")),
            shown(each.first_seen),
            shown(each.last_seen),
            cut(each.sample, SHOWN_SAMPLE) if each.sample else "-",
        )
        for each in found
    ]
    setting.screen.table(columns, rows, spare=("first (UTC)", "sample", "last (UTC)"))
    for each in {each.reason: each for each in found}.values():
        setting.screen.say(f"{each.reason}: {each.meaning}. What to do: {each.what_to_do}")
    return exits.OK


async def _read(setting: Setting, wanted: Wanted) -> list[Shown]:
    async with open_broker(setting.reach()) as broker:
        return [show(each) for each in await read_all(broker, wanted)]
