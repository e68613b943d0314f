"""The beginning of a read: where the log is read from, which tables are copied, and what of the stored states does not hold any more.

Each table has a state of its own, so tables may be at different positions: one was not loaded, one joins, one is read alone. The log is
read from the first of them on, and the changes that a table has had are left out. Tables of the sync that are not read now stay
published, and the server keeps their log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from connector_runner.contract import StreamName
from connector_runner.sources.postgres.catalogue import Table
from connector_runner.sources.postgres.changes import slots
from connector_runner.sources.postgres.changes.followed import Followed
from connector_runner.sources.postgres.changes.state import Server, TableState, shown, stored_table
from shared.errors import UNREADABLE, SetupError

if TYPE_CHECKING:
    import asyncpg

_AGAIN = "run `penstock connector cleanup` for it and `penstock sync reset` for its sync, and all tables are copied again"


class Names(NamedTuple):
    """What a connector has on the server. `own`: whether the publication is ours; else a person made it."""

    slot: str
    publication: str
    own: bool


class Begun(NamedTuple):
    """A read that can begin.

    `lsn`: where the log is read from. `tables`: the states of the tables that are read, by number. `others`: how far the tables of the sync are that
    are not read now. `said`: what became of tables since their states.
    """

    lsn: int
    tables: dict[int, TableState]
    others: dict[StreamName, int]
    said: list[str]


async def begin(
    driver: asyncpg.Connection,
    what: str,
    *,
    names: Names,
    known: Mapping[StreamName, Table],
    followed: Mapping[int, Followed],
    signals: Table | None,
    stored: Mapping[StreamName | None, bytes],
    settle_seconds: float,
) -> Begun:
    """Makes publication and slot fit what is read.

    Args:
        known: the tables that are there.
        followed: the tables that are read, by number.
        signals: the table in which a person asks for copies.
        stored: the states of all streams of the sync.
        settle_seconds: how long a transaction may stay open while we wait for it.

    Raises:
        SetupError: changes were lost, or the server is not set up.
        Transient: a transaction stays open.
    """
    server = await slots.server_of(driver, what)
    slot = await slots.look(driver, names.slot)
    before: dict[int, TableState] = {}
    for oid, each in followed.items():
        if (text := stored.get(each.name)) is not None:
            before[oid] = stored_table(text, f"{what}: {each.name}")
    read = {each.name for each in followed.values()}
    others = _others({name: state for name, state in stored.items() if name not in read}, known, server, names.slot)
    newest = max((each.lsn for each in (*before.values(), *others.values())), default=None)
    _check(what, before.values(), newest=newest, name=names.slot, server=server, slot=slot)
    if newest is not None and newest > (end := await slots.written(driver)):
        raise SetupError(
            f"{what}: the server's log ends at {shown(end)}, and it was read up to {shown(newest)}: the server was put back from a backup; "
            f"{_anew()}"
        )
    tables = {oid: each.table for oid, each in followed.items()}
    if signals is not None:
        tables.setdefault(signals.oid, signals)
    if names.own:
        for name, other in others.items():
            tables.setdefault(other.oid, known[name])
    published = await slots.publish(driver, names.publication, list(tables.values()), what, own=names.own)
    said, held = list[str](), dict[int, TableState]()
    for oid, state in before.items():
        why = _anew_because(state, oid, published[oid], slot)
        if why:
            said.append(f"{followed[oid].name}: {why}")
        else:
            held[oid] = state
    settled = slot is None  # making a slot waits as `settle` does
    made = await slots.create(driver, names.slot, what) if slot is None else slot.confirmed
    lsn = min((each.lsn for each in held.values()), default=made)
    new = {
        oid: TableState(server=server, slot=names.slot, oid=oid, published=published[oid], lsn=lsn, since=lsn)
        for oid in followed
        if oid not in held
    }
    if new and not settled:
        await slots.settle(driver, what, settle_seconds)
    return Begun(lsn, {**held, **new}, {name: each.lsn for name, each in others.items() if each.lsn >= made}, said)


def _others(
    stored: Mapping[StreamName | None, bytes], known: Mapping[StreamName, Table], server: Server, slot: str
) -> dict[StreamName, TableState]:
    """Returns the states of tables that are not read now and can go on later."""
    found: dict[StreamName, TableState] = {}
    for name, state in stored.items():
        if name is None or name not in known:
            continue
        try:
            other = msgspec.json.decode(state, type=TableState)
        except UNREADABLE:  # said when it is read
            continue
        if (other.server, other.slot, other.oid) == (server, slot, known[name].oid):
            found[name] = other
    return found


def _check(
    what: str, states: Iterable[TableState], *, newest: int | None, name: str, server: Server, slot: slots.Slot | None
) -> None:
    """Raises if what was committed behind the states cannot be read any more.

    Args:
        newest: the last position of all states of the sync; None: there are none.
        name: of the slot.

    Raises:
        SetupError
    """
    for state in states:
        if state.server.system != server.system:
            raise SetupError(f"{what}: this is another server than before, or one from a dump; {_anew()}")
        if state.slot != name:
            raise SetupError(f"{what}: the stored state is of the slot {state.slot}; {_AGAIN}")
        if state.server.timeline != server.timeline and not (slot is not None and slot.follows):
            raise SetupError(
                f"{what}: the server was promoted or put back from a backup (timeline {state.server.timeline}, now {server.timeline}), so "
                f"changes may be lost; {_anew()}"
            )
    if newest is not None:
        # a table that was left out for a while may be behind the slot, if another one is not: then we moved it
        if why := slots.gap(slot, name, newest):
            raise SetupError(f"{what}: {why}; the changes behind the stored state are lost: {_AGAIN}")
    elif slot is not None and slot.lost:
        raise SetupError(f"{what}: {slots.gap(slot, name, 0)}; run `penstock connector cleanup`, which drops it")


def _anew_because(state: TableState, oid: int, published: int, slot: slots.Slot | None) -> str:
    """Returns why a table is copied again though it has a state; empty if it goes on."""
    if state.oid != oid:
        return "it was dropped and made again; it is copied"
    if state.published != published:
        return "it was not published for a while; it is copied again"
    if slot is not None and slot.confirmed > state.lsn:
        return "it was left out for a while; it is copied again"
    return ""


def _anew() -> str:
    return (
        f"{_AGAIN}. Remove the rows of its tables in the destination first: their `_lsn` is of a log that does not go on, and a merge would "
        "keep them"
    )
