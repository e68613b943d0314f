"""Full refreshes: the rows of a run wait in a separate table, and replace all others in one transaction.

The first part of a run makes the run's table. Each part adds its columns, in the types of the target table, and the end drops the
table. The ledger knows the newest run of each table: a part of an older run is refused, and a newer run drops the waiting rows of
the older. Parts are loads like others, so their marks say which of them have arrived.

The end of a run deletes the table's rows and inserts the run's rows, with the marks, in one transaction. Renaming tables would be
faster. But indexes, grants, comments, foreign keys, views and publications belong to the table that would be renamed away; and if
renaming commits by itself, a killed loader could not know whether it had done it. TRUNCATE is no DELETE: Postgres shows the empty
table to readers with an older snapshot, and makes all others wait.
"""

# ruff: noqa: S608 - names are quoted by the dialect, values are bound
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from loader.contract.warehouse import Column, TableLoad, TablePatch
from loader.sql import ledger
from loader.sql import patch as patching
from loader.sql.dialect import Dialect
from loader.sql.ledger import OVER, Holder, Noted
from loader.sql.live import LiveColumn, LiveTable
from loader.sql.steps import Commit, Run, Steps
from loader.sql.text import own_index, require_key
from shared.errors import Permanent, RunOver, TableChanged

PREFIX = "_penstock_run_"
"""Names of the tables in which rows wait begin with this."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The table in which the rows of a run wait; `columns`: the columns of its parts so far, none if there is no table yet."""

    name: str
    table: str
    run: int
    columns: Mapping[str, LiveColumn]

    def load(self, load: TableLoad) -> TableLoad:
        """Returns the load of a part as a load into the table of the run."""
        return replace(load, table=self.name, write="merge" if load.key else "append", part=None)

    def live(self, target: LiveTable) -> LiveTable:
        """Returns the table of the run; the bulk path can write into it where it can write into the one it is for."""
        return LiveTable(dict(self.columns), bulk=target.bulk)


def stage_name(connection: str, table: str, run: int) -> str:
    """Returns the name of the table in which the rows of a run wait."""
    of = "\0".join((connection, table)).encode("utf-8", "surrogatepass")
    return f"{PREFIX}{hashlib.sha256(of).hexdigest()[:12]}_{run}"


def prepare(dialect: Dialect, schema: str, holder: Holder, load: TableLoad) -> Steps[Stage]:
    """Makes the table of a run fit for a part, in a separate transaction; a repeat changes nothing.

    Raises:
        RunOver: the run has ended, was given up or overtaken, or its rows are gone.
        TableChanged: the table is gone, or lacks a column.
        Fenced, WentBack
    """
    if load.part is None:
        raise Permanent(f'table "{load.table}": rows that replace others need the run they are of')
    run, table = load.part.run, load.table
    noted = yield from ledger.read_refresh(dialect, schema, holder.connection, table)
    if noted is not None and (noted.run > run or (noted.run == run and noted.rows == OVER)):
        why = f"run {noted.run} took its place" if noted.run > run else "it has ended"
        raise RunOver(f'table "{table}": run {run} of its full refresh is over, {why}; nothing was loaded')
    name = stage_name(holder.connection, table, run)
    live = yield from dialect.read_columns(schema, [table, name])
    target, there = live.get(table), live.get(name)
    if target is None:
        raise TableChanged(f'table "{table}" is gone')
    if target.view:
        raise Permanent(f'"{table}" is a view, whose rows cannot be replaced; choose another name for the table')
    wanted = _wanted(dialect, load, target)
    begun = noted is not None and noted.run == run
    if begun and noted is not None and noted.rows and there is None:
        raise _lost(table, run, "the table in which its rows waited was dropped")
    if not begun or (there is None and wanted):
        yield from _begin(dialect=dialect, schema=schema, holder=holder, noted=noted, load=load, name=name, wanted=wanted)
        there = LiveTable(dict(wanted))
    elif there is not None and wanted:
        there = yield from _fit(
            dialect=dialect, schema=schema, holder=holder, load=load, name=name, there=there, target=target, wanted=wanted
        )
    return Stage(name, table, run, {} if there is None else there.columns)


def swap(dialect: Dialect, schema: str, holder: Holder, stage: Stage, target: LiveTable) -> Steps[None]:
    """Replaces all rows of the target table by the rows of a run, in the transaction of the part that ends it.

    Raises:
        TableChanged: the table lacks a column that the run has.
    """
    yield Run(f"DELETE FROM {dialect.qualified(schema, stage.table)}")
    if stage.columns:
        values: list[str] = []
        for name in stage.columns:
            column = target.columns.get(name)
            if column is None or not column.writable:
                raise TableChanged(f'table "{stage.table}": column "{name}" is gone, or computed by the warehouse now')
            value = f"r.{dialect.identifier(name)}"
            values.append(value if column.default is None else f"coalesce({value}, {column.default})")
        into = f"INSERT INTO {dialect.qualified(schema, stage.table)} ({dialect.identifiers(stage.columns)})"
        yield Run(f"{into} SELECT {', '.join(values)} FROM {dialect.qualified(schema, stage.name)} AS r")
    yield from ledger.write_refresh(
        dialect=dialect, schema=schema, holder=holder, table=stage.table, noted=Noted(stage.run, OVER)
    )


def drop(dialect: Dialect, schema: str, name: str) -> Steps[None]:
    """Drops the table of a run, if it exists."""
    yield Run(f"DROP TABLE IF EXISTS {dialect.qualified(schema, name)}")


def sweep(dialect: Dialect, schema: str, holder: Holder) -> Steps[None]:
    """Drops the tables of runs that ended while their loader was killed before it could drop them, which happens where DDL commits."""
    if dialect.ddl_commits:
        for table, run in (yield from ledger.read_over(dialect, schema, holder.connection)):
            yield from drop(dialect, schema, stage_name(holder.connection, table, run))


def abandon(dialect: Dialect, schema: str, holder: Holder, table: str) -> Steps[None]:
    """Ends the open run of a table and drops its waiting rows.

    Raises:
        Fenced, WentBack
    """
    noted = yield from ledger.read_refresh(dialect, schema, holder.connection, table)
    if noted is None or noted.rows == OVER:
        return
    yield Run(dialect.begin)
    yield from dialect.lock(schema, [table])
    yield from ledger.check(dialect, schema, holder)
    yield from drop(dialect, schema, stage_name(holder.connection, table, noted.run))
    yield from ledger.write_refresh(dialect=dialect, schema=schema, holder=holder, table=table, noted=Noted(noted.run, OVER))
    yield Commit()


def _wanted(dialect: Dialect, load: TableLoad, target: LiveTable) -> dict[str, LiveColumn]:
    """Returns the columns of a part in the table's types."""
    wanted: dict[str, LiveColumn] = {}
    for name in load.rows.column_names:
        column = target.columns.get(dialect.fold(name))
        if column is None:
            raise TableChanged(f'table "{load.table}": column "{name}" is gone')
        wanted[column.name] = column
    return wanted


def _begin(
    dialect: Dialect,
    schema: str,
    holder: Holder,
    noted: Noted | None,
    load: TableLoad,
    name: str,
    wanted: Mapping[str, LiveColumn],
) -> Steps[None]:
    """Notes the run and makes its table. If DDL commits and a loader is killed in between, the next one finds a run without rows
    and goes on."""
    assert load.part is not None  # noqa: S101 - `prepare` asked
    run = load.part.run
    yield Run(dialect.begin)
    yield from dialect.lock(schema, [load.table])
    yield from ledger.check(dialect, schema, holder)
    if noted is not None and noted.run != run:
        yield from drop(dialect, schema, stage_name(holder.connection, load.table, noted.run))
    yield from ledger.write_refresh(dialect=dialect, schema=schema, holder=holder, table=load.table, noted=Noted(run, 0))
    yield from drop(dialect, schema, name)
    if wanted:
        key = [dialect.fold(each) for each in load.key]
        require_key(load.table, load.key, wanted, dialect.fold)
        parts = [_definition(dialect, column, in_key=column.name in key) for column in wanted.values()]
        index = own_index(schema, name, (yield from dialect.own_keys(schema)))
        yield Run(dialect.create_table(schema=schema, table=name, parts=parts, key=key, key_name=index))
    yield Commit()


def _fit(
    dialect: Dialect,
    schema: str,
    holder: Holder,
    load: TableLoad,
    name: str,
    there: LiveTable,
    target: LiveTable,
    wanted: Mapping[str, LiveColumn],
) -> Steps[LiveTable]:
    """Gives the table of a run the new columns of a part, and the present types of columns."""
    assert load.part is not None  # noqa: S101 - `prepare` asked
    missing = [column for column in wanted.values() if column.name not in there.columns]
    if missing:
        yield Run(dialect.begin)
        yield from dialect.lock(schema, [load.table])
        yield from ledger.check(dialect, schema, holder)
        parts = [dialect.add_column(_definition(dialect, column, in_key=False)) for column in missing]
        yield Run(dialect.alter(schema, name, parts))
        yield Commit()
    other = [
        column for column in there.columns.values() if (now := target.columns.get(column.name)) and now.native != column.native
    ]
    if other:
        wider = [target.columns[column.name] for column in other]
        widen = tuple(Column(column.name, column.kind, column.native) for column in wider)
        yield from patching.apply(dialect, schema, TablePatch(name, widen=widen))
        there = (yield from dialect.read_columns(schema, [name])).get(name, LiveTable())
        for column in wider:
            if column.name not in there.columns or there.columns[column.name].native != column.native:
                raise _lost(load.table, load.part.run, f'column "{column.name}" became {column.native}, which its rows cannot')
    return LiveTable({**there.columns, **{column.name: column for column in missing}})


def _definition(dialect: Dialect, column: LiveColumn, *, in_key: bool) -> str:
    return dialect.definition(column.as_column(), column.native, in_key=in_key)


def _lost(table: str, run: int, why: str) -> RunOver:
    return RunOver(f'table "{table}": run {run} of its full refresh cannot go on, {why}; begin a new run')
