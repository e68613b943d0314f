"""`penstock replay --lost`: events that a lost broker took with it, from the archive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.control.reach import open_broker
from shared.project.snapshot import current_snapshot
from shared.threads import ThreadGate

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.terminal.options import Setting
    from router.replay.run import ReplayReport
    from shared.project.model import Project


async def replay_lost(
    setting: Setting, site: str, connection: str | None, *, dry_run: bool, agree: Callable[[Project], None]
) -> list[ReplayReport]:
    """Sends each connection what its destination lacks of EVENTS streams that are gone; returns the reports.

    A connection whose destination does not say what it has gets nothing unless it is named.

    Args:
        agree: asks whether rows may be doubled, before such a connection gets all.

    Raises:
        ConfigError, NotConnected, Transient
    """
    from penstock.control.archives import options_of
    from penstock.control.lost import lost_frames
    from router.archive.older import Older
    from router.replay.run import replay as replay_range
    from shared.archive.note import read_notes

    screen, gate, reports = setting.screen, ThreadGate(2, "replay"), list["ReplayReport"]()
    try:
        async with open_broker(setting.reach()) as broker:
            config = await current_snapshot(broker)
            archives = options_of(config.project, await read_notes(broker))
            older = Older(gate, lambda: archives)
            found = await lost_frames(broker=broker, config=config, site=site, connection=connection, older=older)
            for each in found:
                what = f"{each.connection}: frames {each.first} to {each.last} of the stream {each.stream}"
                if each.first > each.last:
                    screen.say(f"{each.connection}: has all of the stream {each.stream} that is archived")
                    continue
                if not each.known and connection is None:
                    screen.say(
                        f"{what} are archived, and its destination does not say which of them it has; to send all of them, say "
                        f"--connection {each.connection}",
                        "yellow",
                    )
                    continue
                if not each.known:
                    agree(config.project)
                with screen.progress(f"reading {what}" if dry_run else f"sending {what}") as advance:
                    reports.append(
                        await replay_range(
                            broker,
                            config,
                            site,
                            each.first,
                            each.last,
                            replay_id=each.replay_id,
                            connection=each.connection,
                            dry_run=dry_run,
                            older=older,
                            stream=each.stream,
                            progress=lambda report, on=advance, each=each: on(  # type: ignore[misc]
                                report.last_seq - each.first + 1, total=each.last - each.first + 1
                            ),
                        )
                    )
            if not found:
                screen.say(f"the archive of site {site} has no events of an EVENTS stream that is gone")
    finally:
        gate.close()
    return reports
