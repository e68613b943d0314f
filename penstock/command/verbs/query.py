"""`penstock query`: a question in SQL to a destination."""

from __future__ import annotations

import asyncio
import csv
import sys
from decimal import Decimal
from typing import Any

import click
import msgspec

from penstock.control.data.query import Answer, ask, choose
from penstock.control.reach import open_broker
from penstock.control.wording import counted, cut
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_broker
from penstock.terminal.screen import Exact, Screen
from shared.errors import SetupError
from shared.project.snapshot import stored_project

CUT = 60
"""Characters of a value that a table shows."""


@click.command()
@click.argument("sql")
@click.option("--destination", help="Which destination; default: the only one that can be asked.")
@click.option("--limit", type=Integer(0), default=100, show_default=True, help="Most rows to print; 0: all.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@at_broker
def query(setting: Setting, sql: str, destination: str | None, limit: int, as_csv: bool) -> int:
    """Asks a destination with tables (ClickHouse, DuckDB, MySQL, Postgres) of the project that runs a question in SQL. It reads
    only. With --json each row is an object.

    A DuckDB file is open to one program at a time; the command waits for a gap between two loads.

    \b
    Examples:
      penstock query "SELECT event, count(*) FROM tracks GROUP BY 1"
      penstock query --destination wh --csv --limit 0 "SELECT * FROM users" > users.csv
    """
    answer = asyncio.run(_ask(setting, sql, destination, limit))
    if setting.screen.json:
        setting.screen.result({**msgspec.structs.asdict(answer), "rows": answer.objects})
        return exits.OK
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(answer.rows)
        if answer.more:
            setting.screen.note(f"only the first {limit} rows; --limit 0 prints all", "yellow")
    else:
        _show(setting.screen, answer)
    return exits.OK


async def _ask(setting: Setting, sql: str, destination: str | None, limit: int) -> Answer:
    async with open_broker(setting.reach()) as broker:
        stored = await stored_project(broker)
    if stored is None:
        raise SetupError("no project was applied yet; apply one with `penstock apply FILE`")
    destinations: dict[str, Any] = stored[1].resolved.get("destinations") or {}
    name = choose(destinations, destination)
    return await ask(name, destinations[name], sql, limit)


def _show(screen: Screen, answer: Answer) -> None:
    screen.table(answer.columns, [[_short(value) for value in row] for row in answer.rows])
    rows = counted(len(answer.rows), "row")
    screen.note(f"the first {rows}; --limit 0 prints all" if answer.more else rows)


def _short(value: Any) -> Any:
    """Returns a cell of the table: numbers in full, since people copy ids and compare sums."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return Exact(value)
    return cut(value, CUT) if isinstance(value, str) else value
