"""Tries a project on the latest events: how many each connection takes, and which tables they make. Sends nothing.

The router's rules, privacy rules, functions and the loader's shaping run as usual, but without existing tables: every column is
new, and refusals of existing tables do not show. What functions keep stays in memory, and their requests are not sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from functions_runtime.definition import definitions
from loader import registry
from loader.fitting.fit import fit_batch
from loader.rows.rules import Stamp
from loader.rows.shape import Shaper
from penstock.control.data.tail import last_frames
from penstock.control.functions.passage import Passage
from router.rules.arrival import Arrival
from router.rules.compiled import ConnectionRules, compile_project
from router.rules.match import match
from shared.errors import Permanent
from shared.events.frame import decode_frame
from shared.events.outcome import DeadReason
from shared.jetstream.broker import Broker
from shared.jetstream.reader import Message
from shared.project.model import Project
from shared.project.snapshot import ConfigSnapshot


class TableTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A table that would be made: its rows, and its columns with their types."""

    table: str
    rows: int
    columns: dict[str, str]


class Trial(msgspec.Struct, kw_only=True):
    """The result for one connection. `doubts`: names in the project file that no event has, and what was not tried."""

    connection: str
    events: int = 0
    taken: int = 0
    dropped: dict[str, int] = {}
    dead: dict[str, int] = {}
    tables: list[TableTrial] = []
    doubts: list[str] = []


async def try_out(broker: Broker, project: Project, connections: Iterable[str], events: int) -> list[Trial]:
    """Returns the results of connections for the latest events of their sites.

    Args:
        project: the project to try, not the one that runs.
        events: how many of each site, about: whole frames are taken.

    Raises:
        NotConnected: the broker does not answer.
    """
    snapshot = ConfigSnapshot(0, project)
    rules, functions = compile_project(snapshot), definitions(snapshot)
    trials: list[Trial] = []
    frames: dict[str, list[Message]] = {}
    for name in connections:
        site = project.connections[name].site
        if site not in frames:
            frames[site] = await last_frames(broker, site, events)
        mine = rules[site].connections.get(name)
        if mine is None:
            trials.append(Trial(connection=name))
        elif name not in functions:
            trials.append(await _try(project, name, mine, frames[site]))
        else:
            async with Passage(functions[name]) as passage:
                trials.append(await _try(project, name, mine, frames[site], passage=passage))
    return trials


async def _try(
    project: Project, name: str, rules: ConnectionRules, messages: Iterable[Message], passage: Passage | None = None
) -> Trial:
    connection = project.connections[name]
    capabilities = registry.takes_tables(str(project.destinations[connection.destination]["type"]))
    shaper = Shaper(name, connection, capabilities, connection.site) if capabilities is not None else None
    trial, dropped, dead = Trial(connection=name), Counter[str](), Counter[str]()
    for message in messages:
        try:
            arrival = Arrival(message.seq, message.at_seconds, message.payload, with_heads=True)
            matched = match(rules, arrival)
            trial.events += len(arrival)
            dropped.update({str(reason): count for reason, count in matched.drops.items()})
            dead.update({str(DeadReason.TRACKING_PLAN): len(matched.dead)} if matched.dead else {})
            frame = decode_frame(arrival.payload_of(matched.indexes))
            trial.taken += len(frame)
            going_on = frame if passage is None else await passage.through(frame)
            if shaper is not None and going_on is not None:
                shaper.add(going_on, arrival.seq)
        except Permanent:
            dead["frame_unreadable"] += 1
    if passage is not None:
        trial.doubts += passage.doubts()
        dropped.update(passage.dropped)
        dead.update(passage.dead)
    if shaper is None:  # this destination takes its events one by one
        trial.dropped, trial.dead = dict(dropped), dict(dead)
        return trial
    batch = shaper.take()
    fitted = fit_batch(batch, {}, shaper.rules, Stamp(datetime.now(UTC), "trial"))
    dropped.update({str(reason): count for reason, count in batch.dropped.items()})
    dead.update(str(each.reason) for each in (*batch.dead, *fitted.dead))
    for patch in fitted.patches:
        columns = {column.name: str(column.kind) for column in patch.add}
        trial.tables.append(TableTrial(table=patch.table, rows=len(fitted.batch.tables[patch.table]), columns=columns))
    trial.dropped, trial.dead = dict(dropped), dict(dead)
    known = {column for table in trial.tables for column in table.columns}
    if trial.tables:
        trial.doubts += [
            f"{option}: no row has a column {column!r}"
            for option, columns in (("primary_key", connection.primary_key or ()), ("column_types", connection.column_types))
            for column in columns
            if column not in known
        ]
    return trial
