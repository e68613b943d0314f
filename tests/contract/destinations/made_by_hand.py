"""Tables that a person made: a delivery into them, their key in each dialect, their rows."""

from __future__ import annotations

from typing import Any

from loader.contract.warehouse import Kind
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open


async def delivery(wh: Open, ddl: str, **options: Any) -> Delivery:
    """Runs DDL, and opens a connection to what it made."""
    session = await wh.session()  # makes the schema
    await wh.subject.run(ddl)
    return Delivery(wh, session, **options)


def keyed(wh: Open, key: str) -> str:
    """Returns what makes a table merge by a key, where that is the table's engine."""
    clickhouse = f" ENGINE = ReplacingMergeTree ORDER BY {key} SETTINGS allow_nullable_key = 1"
    return clickhouse if wh.subject.label == "clickhouse" else ""


async def rows(wh: Open, *columns: str) -> list[tuple[Any, ...]]:
    """Returns columns of the table `events`, in the order of the messages."""
    found = await wh.rows("events", dict.fromkeys(("message_id", *columns), Kind.TEXT), "message_id")
    return [tuple(row[name] for name in columns) for row in found]
