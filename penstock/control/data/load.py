"""Loads rows into a table of a destination, without a stack: what `penstock load` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from loader import registry
from loader.contract.events import EventDestination
from loader.contract.warehouse import Environment
from loader.delivery.destinations import open_session
from loader.delivery.rows import RowLoader, RowsWanted
from shared.errors import ConfigError, PenstockError, Permanent, Problem
from shared.threads import ThreadGate

if TYPE_CHECKING:
    from loader.rows.given import Rows

THREADS = 4


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The result. `rows`: loaded now; `skipped`: loaded by an earlier start of the same load; `token`: what tells one load from another."""

    destination: str
    table: str
    rows: int
    skipped: int
    token: str
    unmapped: dict[str, int] = {}
    """By column, values that fitted no column and went to `_unmapped_data`."""
    changed: dict[str, int] = {}
    """Values that were changed on the way, by what was changed."""


async def load_rows(
    name: str,
    document: Mapping[str, Any],
    wanted: RowsWanted,
    batches: Iterator[tuple[Rows, bool]],
    advance: Callable[[int], None] = lambda _: None,
) -> Loaded:
    """Loads batches of rows into a destination.

    Args:
        name: of the destination.
        document: its entry in the project file, with `type`.
        batches: the rows, each batch with whether it is the last; always the same ones for a token.
        advance: is told how many rows are done.

    Raises:
        ConfigError: the destination does not exist as written, or cannot do what is wanted.
        Permanent: rows do not fit; the message says which, and from where the load goes on.
        PenstockError: the destination does not take them; the same load can be started again.
    """
    gate = ThreadGate(THREADS, "load")
    try:
        return await _load(name=name, document=document, wanted=wanted, batches=batches, gate=gate, advance=advance)
    except PenstockError as exc:
        registry.mask_of(document).error(exc)
        raise
    finally:
        gate.close()


async def _load(
    name: str,
    document: Mapping[str, Any],
    wanted: RowsWanted,
    batches: Iterator[tuple[Rows, bool]],
    gate: ThreadGate,
    advance: Callable[[int], None],
) -> Loaded:
    plugin, options = registry.parse_options(name, document)
    destination = await plugin.open_destination(name, options, Environment(gate))
    try:
        if isinstance(destination, EventDestination):
            raise ConfigError(
                [Problem(f"destinations.{name}", f"a destination of type {document['type']} takes events and has no tables")]
            )
        # milliseconds: a load that is started later fences the one before it, of the same table
        now = time.time_ns() // 1_000_000
        async with open_session(destination, wanted.connection, now, document) as session:
            loader = RowLoader(wanted, session, destination.capabilities, run=now)
            done = await loader.loaded()
            rows = skipped = count = 0
            number, over = 0, False
            while not over and (batch := await gate.run(next, batches, None)) is not None:
                number += 1
                held, over = batch
                if number <= done:
                    skipped += len(held)
                else:
                    try:
                        rows += await loader.load(held, number, count, last=over)
                    except Permanent as exc:
                        raise Permanent(_where(exc, wanted, count)) from exc
                count += len(held)
                advance(count)
    finally:
        await destination.close()
    return Loaded(
        destination=name,
        table=loader.table,
        rows=rows,
        skipped=skipped,
        token=wanted.token,
        unmapped=dict(loader.unmapped),
        changed=dict(loader.changed),
    )


def _where(exc: Permanent, wanted: RowsWanted, count: int) -> str:
    if not count or wanted.write == "replace":
        return f"{exc}; nothing was loaded"
    return f"{exc}; the {count} rows before are loaded: after a correction behind them, `--token {wanted.token}` goes on there"
