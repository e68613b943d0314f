"""Rows of a person: counted and deleted by the columns of ids, each table in a transaction of its own."""

# ruff: noqa: S608 - names are quoted by the dialect, values are bound
from __future__ import annotations

from collections.abc import Mapping, Sequence

from loader.contract.forgets import person_columns
from loader.sql import ledger
from loader.sql.dialect import Dialect
from loader.sql.steps import Ask, Commit, Run, Steps
from loader.sql.text import LEDGER


def forget_person(
    dialect: Dialect, schema: str, names: Sequence[str], *, columns: Sequence[str], delete: bool
) -> Steps[Mapping[str, int]]:
    """Returns by table how many rows have one of the ids, and deletes them, as `ForgetsPeople` says."""
    if not (yield Ask(dialect.has_table(), (schema, LEDGER))):
        return {}
    live = yield from dialect.read_columns(schema, (yield from ledger.read_all_tables(dialect, schema)))
    found: dict[str, int] = {}
    for table, there in live.items():
        searched = person_columns(table, there.columns, columns)
        if not searched:
            continue
        where, values = _where(dialect, searched, names)
        target = dialect.qualified(schema, table)
        ((count,),) = yield Ask(f"SELECT count(*) FROM {target} WHERE {where}", values, long=True)
        found[table] = int(count)
        if delete and count:
            yield Run(dialect.begin)
            yield Ask(f"DELETE FROM {target} WHERE {where}", values, long=True)
            yield Commit()
    return found


def _where(dialect: Dialect, columns: Sequence[str], names: Sequence[str]) -> tuple[str, list[str]]:
    parts: list[str] = []
    values: list[str] = []
    for column in columns:
        places = ", ".join(dialect.parameter(len(values) + number) for number in range(1, len(names) + 1))
        parts.append(f"{dialect.exact_text(dialect.identifier(column))} IN ({places})")
        values += names
    return " OR ".join(parts), values
