"""A load: rows and marks in one transaction, and the next attempt if the warehouse refuses a part.

The order is: begin, read the live columns, fit the rows to them, send them table by table, check the epoch and count the load,
commit. The plug-in sends rows (`Bulk`); this module decides which way each table's rows take. Parts of a full refresh go into the
table of their run (`refresh.py`) in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from loader.contract.warehouse import Kind, LoadPlan, LoadReport, TableLoad
from loader.sql import ledger, merge, refresh
from loader.sql.dialect import Dialect
from loader.sql.ledger import Holder, Noted
from loader.sql.live import LiveColumn, LiveTable, other_columns
from loader.sql.merge import Straight, has_key
from loader.sql.refresh import Stage
from loader.sql.reject import narrow, refuse_null_keys, refuse_nulls
from loader.sql.steps import Ask, Commit, Moment, Rollback, Run, Steps
from loader.sql.text import by_dependency
from loader.sql.writes import emptied, history, several
from loader.sql.writes.staged import Staged
from shared.errors import PenstockError, Permanent, RowsRejected, TableChanged, TableSetupError

if TYPE_CHECKING:
    import pyarrow as pa

WHOLE = ""
"""If a failing statement takes back the whole transaction, a load is tried straight as a whole, however many tables it has."""


@dataclass(frozen=True, slots=True)
class Way:
    """The way of a load's rows. `short`: a few rows may take a way on which the warehouse names no refused row. `in_turn`: keys
    that differ here may be one key in the warehouse; rows of one key are then merged one after the other."""

    short: bool = True
    in_turn: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """A load whose columns have the live table's types.

    `rows`: the load's rows, in the exact types of the columns. `cast`: columns whose text the warehouse must read. `defaults`: of
    columns for which some rows have no value. `others`: columns that a replaced row must not keep.
    """

    load: TableLoad
    rows: pa.Table
    table: LiveTable
    cast: frozenset[str]
    defaults: Mapping[str, str]
    others: Sequence[str]
    live: Mapping[str, LiveColumn]

    @property
    def plain(self) -> bool:
        """Whether rows can go into the table unchanged, by any way."""
        return self.table.bulk and not self.cast and not self.defaults

    def given(self, dialect: Dialect) -> dict[str, str]:
        """Returns the expression of each column's value in a source that is called `r`."""
        return {name: f"r.{dialect.identifier(name)}" for name in self.live}

    def in_turn(
        self, dialect: Dialect, schema: str, rows: str, given: Mapping[str, str], key: Iterable[str], order: str
    ) -> Steps[None]:
        """Merges rows of one key one after the other.

        Args:
            dialect, schema: of the table.
            rows: the relation they are in, quoted.
            given: the expression of each value, where the relation is called `r`.
            key: expressions of the key, of the types that the table compares.
            order: the expression that tells which of two rows comes first.
        """
        turns = merge.in_turn(rows, key, order)
        ((last,),) = yield Ask(f"SELECT max(_penstock_turn) FROM {turns}", long=True)  # noqa: S608 - made of quoted names
        for turn in range(1, (last or 0) + 1):
            yield Run(self.statement(dialect, schema, f"{turns} WHERE r._penstock_turn = {turn}", given))

    def statement(self, dialect: Dialect, schema: str, source: str, given: Mapping[str, str], write: str = "") -> str:
        """Returns the statement that brings the rows from `source` into their table; `given`: the expression of each value."""
        load = self.load if not write else replace(self.load, write="append")
        return merge.insert(
            dialect=dialect, schema=schema, load=load, source=source, given=given, defaults=self.defaults, others=self.others
        )


class Bulk(Protocol):
    """How a plug-in sends rows."""

    short_rows: int
    """Most rows of a merge that may take the short way; 0: there is no short way."""
    straight_casts: bool
    """Whether `straight` also takes rows that are not `Fitted.plain`."""

    def send(self, fitted: Fitted, number: int, way: Way) -> Steps[int]:
        """Brings rows into their table, as `TableLoad` says; returns the bytes sent. `number`: of the table in its load."""
        ...

    def straight(self, fitted: Fitted) -> Steps[int | None]:
        """Brings the rows of a merge into their table as if all their keys were new; the unique key refuses existing ones.

        Returns None where the warehouse left something out; the caller takes the others back.
        """
        ...

    def stage(self, fitted: Fitted, number: int) -> Steps[Staged]:
        """Brings rows where only the transaction sees them."""
        ...

    def statements(self, fitted: Fitted, source: str, given: Mapping[str, str]) -> Sequence[str]:
        """Returns the statements that bring rows from a source into their table, as `TableLoad` says; `given`: the expression of each
        column there."""
        ...

    def refused(self, error: Exception, sending: Sequence[Fitted]) -> Steps[RowsRejected | None]:
        """Returns the rows that a driver's error means, if it is about rows; the last of `sending` may have been sent in part."""
        ...


@dataclass(frozen=True, slots=True)
class Loader:
    """The loader of a session's loads."""

    dialect: Dialect
    bulk: Bulk
    schema: str
    straight: Straight

    def bring(self, holder: Holder, plan: LoadPlan | None, loads: Sequence[TableLoad]) -> Steps[LoadReport]:
        """Brings rows and the plan's marks in and commits; without a plan, takes all of it back.

        Raises:
            Fenced, WentBack, TableChanged, RowsRejected, RunOver
        """
        for load in loads:
            refuse_null_keys(load)
        stages: dict[str, Stage] = {}
        for load in loads:
            if load.write == "replace":
                stages[load.table] = yield from refresh.prepare(self.dialect, self.schema, holder, load)
        way, ordered = Way(), False
        # a probe must name rows, so it takes the way on which the warehouse names them
        whole = (
            plan is not None and self.dialect.undo == "transaction" and any(map(_merges, loads)) and self.straight.tries(WHOLE)
        )
        while True:
            try:
                report = yield from self._attempt(holder=holder, plan=plan, loads=loads, stages=stages, way=way, whole=whole)
            except RowsRejected as error:
                if error.needs_others and not ordered and len(loads) > 1:
                    yield Rollback()
                    tables = [load.table for load in loads]
                    loads = by_dependency(loads, (yield from self.dialect.references(self.schema, tables)))
                    ordered = True
                elif way.short and not error.rows and any(load.rows.num_rows <= self.bulk.short_rows for load in loads):
                    yield Rollback()
                    way = replace(way, short=False)  # the short way names no row; the long way fails again and may name it
                else:
                    raise
            except Exception as error:
                trouble = self.dialect.trouble(error)
                if whole and trouble == "duplicate":
                    self.straight.met(WHOLE)
                    whole = False
                elif trouble == "twice" and not way.in_turn:
                    way = Way(short=False, in_turn=True)
                else:
                    raise
                yield Rollback()
            else:
                if whole:
                    self.straight.passed(WHOLE)
                return report

    def _attempt(
        self,
        holder: Holder,
        plan: LoadPlan | None,
        loads: Sequence[TableLoad],
        stages: Mapping[str, Stage],
        way: Way,
        *,
        whole: bool,
    ) -> Steps[LoadReport]:
        dialect, schema = self.dialect, self.schema
        rows: dict[str, int] = {}
        sent = 0
        # a plan may have two loads of one table
        ending = {load.table for load in loads if plan is not None and load.part is not None and load.part.ends}
        ends = [stages[table] for table in sorted(ending)]
        sending: list[Fitted] = []
        started = yield Moment()
        try:
            written = [load.table for load in loads if load.table not in stages]
            written += [stage.table for stage in ends] + [stage.name for stage in stages.values() if stage.columns]
            yield from dialect.begin_load(schema, written, sorted({load.table for load in loads if load.write == "history"}))
            if not dialect.lock_rows:
                yield from ledger.check(dialect, schema, holder)
            live, fixed = yield from self._read(loads, keys=whole)
            for number, load in enumerate(loads):
                fitted = self._fit(load, live.get(load.table), fixed.get(load.table, ()))
                sending.append(_waiting(fitted, stages[load.table]) if load.table in stages else fitted)
                if load.rows.num_rows:
                    sent += yield from self._send(sending[-1], number, way, tries=plan is not None, whole=whole)
                yield from emptied.bring(dialect, schema, load, live[load.table])
                rows[load.table] = rows.get(load.table, 0) + load.rows.num_rows
            for stage in ends:
                yield from self._swap(holder, stage, live[stage.table], sending)
            if dialect.check_now and any(fitted.table.deferred for fitted in sending):
                yield Run(dialect.check_now)
            copied = yield Moment()
            if plan is None:
                yield Rollback()
            else:
                if dialect.lock_rows:
                    yield from ledger.check(dialect, schema, holder)
                over = {stage.table for stage in ends}
                waiting = {
                    table: Noted(stage.run, rows[table]) for table, stage in stages.items() if table not in over and rows[table]
                }
                yield from ledger.write_marks(
                    dialect=dialect, schema=schema, holder=holder, plan=plan, rows=rows, waiting=waiting
                )
                yield Commit()
                if dialect.ddl_commits:
                    yield from self._drop(ends)
        except PenstockError:
            raise
        except Exception as error:
            if not sending or (whole and dialect.trouble(error) == "duplicate"):
                raise
            refused = yield from self.bulk.refused(error, sending)
            if refused is None:
                raise
            of = {stage.name: table for table, stage in stages.items()}
            if refused.table in of:
                refused = RowsRejected(of[refused.table], refused.message, refused.rows, needs_others=refused.needs_others)
            raise refused from error
        return LoadReport(rows, sent, {"copy": copied - started, "commit": (yield Moment()) - copied})

    def _fit(self, load: TableLoad, table: LiveTable | None, fixed: Iterable[str]) -> Fitted:
        if load.write == "history" and table is not None and load.rows.num_rows:
            history.require(table, load.table, self.dialect)
            load = history.dated(load)
        return fit(self.dialect, several.without_idle_marks(load), table, fixed)

    def _swap(self, holder: Holder, stage: Stage, target: LiveTable, sending: Sequence[Fitted]) -> Steps[None]:
        """Ends a run.

        Raises:
            Permanent: the table, or a table that refers to it, refuses the rows of the run in place of its own.
        """
        try:
            yield from refresh.swap(dialect=self.dialect, schema=self.schema, holder=holder, stage=stage, target=target)
        except PenstockError:
            raise
        except Exception as error:
            if (yield from self.bulk.refused(error, sending)) is None:
                raise
            words = f"the rows of run {stage.run} cannot take the place of those of the table"
            raise Permanent(f'table "{stage.table}": {words}, which stays as it is: {self.dialect.describe(error)}') from error
        if not self.dialect.ddl_commits:
            yield from self._drop([stage])

    def _drop(self, stages: Sequence[Stage]) -> Steps[None]:
        for stage in stages:
            if stage.columns:
                yield from refresh.drop(self.dialect, self.schema, stage.name)
            self.straight.passed(stage.name)

    def _read(self, loads: Sequence[TableLoad], *, keys: bool) -> Steps[tuple[dict[str, LiveTable], dict[str, set[str]]]]:
        """Returns the live tables, and the columns that a merge cannot change."""
        names = [load.table for load in loads]
        live = yield from self.dialect.read_columns(self.schema, names)
        if keys:
            found = yield from self.dialect.read_keys(self.schema, names)
            for name, table in live.items():
                table.keys = found.get(name, table.keys)
        # if all columns of a table have values, no column must be left alone
        wider = [
            load.table
            for load in loads
            if load.write in ("merge", "history") and load.table in live and len(live[load.table].columns) > load.rows.num_columns
        ]
        fixed = (yield from self.dialect.fixed_columns(self.schema, wider)) if wider else {}
        return live, fixed

    def _send(self, fitted: Fitted, number: int, way: Way, *, tries: bool, whole: bool) -> Steps[int]:
        load = fitted.load
        if several.needed(load):
            return (
                yield from several.bring(dialect=self.dialect, bulk=self.bulk, schema=self.schema, fitted=fitted, number=number)
            )
        may = _merges(load) and (self.bulk.straight_casts or fitted.plain)
        if whole:
            sent = (yield from self.bulk.straight(fitted)) if may and self._refuses_repeats(fitted) else None
            return sent if sent is not None else (yield from self.bulk.send(fitted, number, way))
        short = way.short and load.rows.num_rows <= self.bulk.short_rows
        if (
            may
            and tries
            and not short
            and not way.in_turn
            and self.dialect.undo == "savepoint"
            and self.straight.tries(load.table)
        ):
            sent = yield from self._try_straight(fitted)
            if sent is not None:
                self.straight.passed(load.table)
                return sent
            self.straight.met(load.table)
        return (yield from self.bulk.send(fitted, number, way))

    def _try_straight(self, fitted: Fitted) -> Steps[int | None]:
        """Returns None, and leaves nothing behind, if a unique key has one of the rows already."""
        table = fitted.load.table
        fitted.table.keys = (yield from self.dialect.read_keys(self.schema, [table])).get(table, fitted.table.keys)
        if not self._refuses_repeats(fitted):
            return None
        return (yield from behind_savepoint(self.dialect, self.bulk.straight(fitted)))

    def _refuses_repeats(self, fitted: Fitted) -> bool:
        return has_key([key.columns for key in fitted.table.keys], [self.dialect.fold(name) for name in fitted.load.key])


def behind_savepoint(dialect: Dialect, sending: Steps[int | None]) -> Steps[int | None]:
    """Sends rows; takes them back, and returns None, where a key is there already or the warehouse left something out."""
    yield Run("SAVEPOINT straight")
    try:
        sent = yield from sending
    except Exception as error:
        if dialect.trouble(error) != "duplicate":
            raise
        sent = None
    ended = "ROLLBACK TO SAVEPOINT straight" if sent is None else dialect.release
    if ended:
        yield Run(ended)
    return sent


def fit(dialect: Dialect, load: TableLoad, table: LiveTable | None, fixed: Iterable[str] = ()) -> Fitted:
    """Fits a load to the live columns' exact types.

    Raises:
        TableChanged: a column is missing or has another kind than the rows were shaped for.
        TableSetupError: the table takes no rows of ours.
        RowsRejected: names rows whose number the column's smaller type cannot hold.
    """
    import pyarrow as pa

    from loader.types.lattice import ARROW

    if table is None:
        raise TableChanged(f'table "{load.table}" is gone')
    if table.unfit:
        raise TableSetupError(table.unfit)
    rows, live, defaults = load.rows, {}, {}
    for position, field in enumerate(load.rows.schema):
        column = table.columns.get(dialect.fold(field.name))
        if column is None:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is gone')
        if field.type != ARROW[column.kind]:
            # the warehouse would cast some values, each in its own way
            raise TableChanged(f'table "{load.table}": column "{field.name}" is {column.native} now, the rows have {field.type}')
        if not column.writable:
            raise TableChanged(f'table "{load.table}": column "{field.name}" is computed by the warehouse now')
        live[field.name] = column
        if column.default is not None and load.rows.column(position).null_count:
            defaults[field.name] = column.default
        narrower = dialect.narrower.get(column.plain)
        if narrower is not None:
            changed = narrow(
                load=load, name=field.name, column=rows.column(position), type_=pa.type_for_alias(narrower), native=column.native
            )
            rows = rows.set_column(position, field.name, changed)
    cast = frozenset(name for name, column in live.items() if column.kind is Kind.OTHER)
    others = other_columns(table, map(dialect.fold, live), fixed)
    return Fitted(load=load, rows=rows, table=table, cast=cast, defaults=defaults, others=others, live=live)


def _waiting(fitted: Fitted, stage: Stage) -> Fitted:
    """Returns a part of a full refresh as rows for the table of its run; rows without a value get their defaults at the end."""
    refuse_nulls(fitted.load, fitted.live)
    table = stage.live(fitted.table)
    others = other_columns(table, [column.name for column in fitted.live.values()])
    return replace(fitted, load=stage.load(fitted.load), table=table, defaults={}, others=others)


def _merges(load: TableLoad) -> bool:
    plain = load.write == "merge" and not load.coalesce and not several.needed(load)
    return plain or load.write == "insert_only"
