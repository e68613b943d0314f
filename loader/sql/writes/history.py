"""Tables that keep versions (`write="history"`): the versions of a load get their places between those that are there. Set by set.

A key's versions are made of events: at a time it has a row, or is deleted. What the table has says the events that are known: each
version is one at its beginning, and one more at its end if no other begins there. To these come the events of the load. Of two at
one time the one of the load counts. Then a version ends where the next event of its key begins. So the result does not depend on
the order in which rows come; only the time of a deletion is forgotten where no version ends at it.

Only versions that end at or after the first event of their key in the load are read. Our sessions wait for each other here
(`Dialect.begin_load`), so none reads what another is about to change.
"""

# ruff: noqa: S608 - names are quoted by the dialect
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from loader.contract.warehouse import Kind, TableLoad
from loader.contract.writes import BEGINNING, CURRENT, HISTORY, NOT_COMPARED, VALID_FROM, VALID_TO
from loader.sql.dialect import Dialect
from loader.sql.live import LiveTable
from loader.sql.steps import Run, Steps
from loader.sql.writes.staged import Keys, Staged, gone, nulls_first
from shared.errors import Permanent, TableSetupError

if TYPE_CHECKING:
    import pyarrow as pa

    from loader.sql.load import Bulk, Fitted

KINDS = {VALID_FROM: Kind.TIMESTAMP, VALID_TO: Kind.TIMESTAMP, CURRENT: Kind.BOOLEAN}
_TIMES = (Kind.TIMESTAMP, Kind.DATE)
_FROM, _UNTIL = "_penstock_from", "_penstock_until"


def dated(load: TableLoad) -> TableLoad:
    """Returns a load whose rows have the time at which their versions begin, if the cursor tells none the load's.

    Raises:
        Permanent: the load lacks what it needs.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not load.key or load.at is None:
        raise Permanent(f'table "{load.table}": versions need a key, and the time of their load')
    type_ = pa.timestamp("us", "UTC")
    if load.cursor is not None and _is_time(load.rows.schema.field(load.cursor).type):
        times = pc.fill_null(load.rows.column(load.cursor).cast(type_), pa.scalar(BEGINNING, type_))
    else:
        times = pa.repeat(pa.scalar(load.at, type_), load.rows.num_rows)
    return replace(load, rows=load.rows.append_column(pa.field(VALID_FROM, type_), times))


def require(table: LiveTable, name: str, dialect: Dialect) -> None:
    """Checks that a table can keep versions.

    Raises:
        TableSetupError: it has columns of other types under our names.
    """
    for column, kind in KINDS.items():
        there = table.columns.get(dialect.fold(column))
        if there is not None and (there.kind is not kind or not there.writable):
            words = f'its column "{column}" is {there.native}, and must be {dialect.types.natives[kind]} to keep versions'
            raise TableSetupError(f'table "{name}": {words}; rename that column, or choose another name for the table')


def bring(dialect: Dialect, bulk: Bulk, schema: str, fitted: Fitted, number: int) -> Steps[int]:
    """Brings the versions of a load into their table; returns the bytes sent. Arguments as `deletions.bring`."""
    staged: Staged = yield from bulk.stage(fitted, number)
    work = _Work(dialect=dialect, schema=schema, fitted=fitted, staged=staged, number=number)
    if fitted.load.cursor is None:
        yield from work.by_arrival()
    elif fitted.live[fitted.load.cursor].kind in _TIMES:
        yield from work.by_time()
    else:
        yield from work.by_order(fitted.load.cursor)
    yield from work.chain()
    for statement in bulk.statements(work.versions(), work.source(), work.given()):
        yield Run(statement)
    yield from work.forget()
    return staged.sent


class _Work:
    """The work of one load, in tables of the transaction.

    `events`: key, time `v`, the number `n` of the load's row (0: known from the table), whether the key is deleted (`gone`), and
    whether a version begins there (`had`). `chain`: one event a time, with the time `until` of the next.
    """

    def __init__(self, dialect: Dialect, schema: str, fitted: Fitted, staged: Staged, number: int) -> None:
        self._dialect = dialect
        self._schema = schema
        self._fitted = fitted
        self._load = fitted.load
        self._staged = staged
        self._number = number
        self._keys = Keys.of(dialect, fitted)
        self._kept: list[str] = []
        self._table = f"{dialect.qualified(schema, fitted.load.table)} AS t"
        self._from, self._to = (f"t.{dialect.identifier(name)}" for name in (VALID_FROM, VALID_TO))

    def by_time(self) -> Steps[None]:
        """Makes the events of rows that tell their time."""
        winners = self._last_of(f"{self._keys.list()}, v")
        yield from self._keep("events", f"SELECT {self._keys.list()}, v, n, gone, 0 AS had FROM {winners}")

    def by_order(self, cursor: str) -> Steps[None]:
        """Makes the events of rows whose cursor tells which is newer, but no time."""
        keys = self._keys
        given, stored = self._staged.given[cursor], f"t.{self._dialect.identifier(cursor)}"
        yield from self._keep("rows", f"SELECT e.* FROM {self._last_of(f'{keys.list()}, c', f', {given} AS c')}")
        yield from self._newest(f", {stored} AS c")
        tie = f"p.v IS NOT NULL AND {self._dialect.same('p.c', 'w.c')}"
        place = f"row_number() OVER (PARTITION BY {keys.list('w.')} ORDER BY {nulls_first('w.c')}) - 1"
        v = f"CASE WHEN {tie} AND w.gone = 0 THEN p.v ELSE {self._dialect.later(self._fresh(), place)} END"
        fits = f"(p.v IS NULL OR p.c IS NULL OR p.c <= w.c) AND NOT ({tie} AND p.still = 0)"
        both = f"{self._aside('rows')} AS w LEFT JOIN {self._aside('newest')} AS p ON {keys.alike('w', 'p')}"
        yield from self._keep("events", f"SELECT {keys.list('w.')}, {v} AS v, w.n, w.gone, 0 AS had FROM {both} WHERE {fits}")

    def by_arrival(self) -> Steps[None]:
        """Makes the events of rows without a cursor: the last of each key, unless the current version has its values."""
        keys = self._keys
        yield from self._keep("rows", f"SELECT e.* FROM {self._last_of(keys.list())}")
        yield from self._newest("")
        both = f"{self._aside('rows')} AS w JOIN {self._staged.relation} AS r ON {self._staged.number} = w.n"
        alike = " AND ".join([f"{self._to} IS NULL", "w.gone = 0", *self._comparisons()])
        unchanged = f"SELECT w.n AS n FROM {both} JOIN {self._table} ON {keys.matches('w')} WHERE {alike}"
        yield from self._keep("unchanged", unchanged, {"n": self._dialect.big_number})
        both = f"{self._aside('rows')} AS w LEFT JOIN {self._aside('newest')} AS p ON {keys.alike('w', 'p')}"
        both += f" LEFT JOIN {self._aside('unchanged')} AS u ON u.n = w.n"
        chosen = f"{keys.list('w.')}, {self._fresh()} AS v, w.n, w.gone, 0 AS had"
        yield from self._keep("events", f"SELECT {chosen} FROM {both} WHERE u.n IS NULL")

    def chain(self) -> Steps[None]:
        """Adds the events that the table knows, and ends its versions where the next event is."""
        keys, events, c = self._keys, self._aside("events"), f"{self._aside('chain')} AS c"
        yield from self._keep("first", f"SELECT {keys.list()}, min(v) AS v FROM {events} AS e GROUP BY {keys.list()}")
        joined = f"FROM {self._table} JOIN {self._aside('first')} AS f ON {keys.matches('f')}"
        into = f"INSERT INTO {events} ({keys.list()}, v, n, gone, had) SELECT {keys.stored()}"
        yield Run(f"{into}, {self._from}, 0, 0, 1 {joined} WHERE {self._to} IS NULL OR {self._to} >= f.v")
        yield Run(f"{into}, {self._to}, 0, 1, 0 {joined} WHERE {self._to} >= f.v")
        # an event of the load counts; else a version that begins there; else the end of one
        is_gone = "coalesce(max(CASE WHEN n > 0 THEN gone END), min(gone))"
        single = f"SELECT {keys.list()}, v, max(n) AS n, {is_gone} AS gone, max(had) AS had FROM {events} AS e GROUP BY {keys.list()}, v"
        following = f"lead(v) OVER (PARTITION BY {keys.list()} ORDER BY v) AS until"
        yield from self._keep("chain", f"SELECT e.*, {following} FROM ({single}) AS e", {"n": self._dialect.big_number})
        there = f"{keys.matches('c')} AND {self._from} = c.v AND c.had = 1"
        yield Run(self._dialect.delete_matched(self._schema, self._load.table, c, f"{there} AND c.gone = 1"))
        # before new versions come, so that no key has two current ones in between
        moved = f"{there} AND c.gone = 0 AND NOT ({self._dialect.same(self._to, 'c.until')})"
        changes = {VALID_TO: "c.until", CURRENT: _is_open("c.until")}
        yield Run(
            self._dialect.update_matched(schema=self._schema, table=self._load.table, changes=changes, source=c, condition=moved)
        )

    def source(self) -> str:
        """Returns what the versions of the load come from, called `r`."""
        on = f"c.n = {self._staged.number} AND c.gone = 0"
        chosen = f"r.*, c.v AS {_FROM}, c.until AS {_UNTIL}"
        return f"(SELECT {chosen} FROM {self._staged.relation} AS r JOIN {self._aside('chain')} AS c ON {on}) AS r"

    def given(self) -> dict[str, str]:
        """Returns the expression of each column there."""
        return {**self._staged.given, VALID_FROM: f"r.{_FROM}", VALID_TO: f"r.{_UNTIL}", CURRENT: _is_open(f"r.{_UNTIL}")}

    def versions(self) -> Fitted:
        """Returns the load as a merge of versions: of those that begin at one time the load's values count."""
        import pyarrow as pa

        fitted, table = self._fitted, self._fitted.table
        names = pa.schema([*self._load.rows.schema, pa.field(VALID_TO, pa.null()), pa.field(CURRENT, pa.null())])
        load = replace(
            self._load, rows=names.empty_table(), write="merge", key=(*self._load.key, VALID_FROM), cursor=None, deleted=None
        )
        fold = self._dialect.fold
        live = {**fitted.live, **{name: table.columns[fold(name)] for name in (VALID_TO, CURRENT)}}
        others = [name for name in fitted.others if fold(name) not in {fold(each) for each in HISTORY}]
        return replace(fitted, load=load, live=live, others=others)

    def forget(self) -> Steps[None]:
        """Drops the tables."""
        for name in self._kept:
            yield from self._dialect.forget(name)

    def _name(self, what: str) -> str:
        return f"_penstock_{what}_{self._number}"

    def _aside(self, what: str) -> str:
        return self._dialect.aside(self._name(what))

    def _keep(self, what: str, query: str, key: Mapping[str, str] | None = None) -> Steps[None]:
        yield from self._dialect.keep(self._name(what), query, self._keys.types if key is None else key)
        self._kept.append(self._name(what))

    def _last_of(self, alike: str, more: str = "") -> str:
        """Returns the staged rows, of those that are alike only the last, called `e`; `more`: columns."""
        given = self._staged.given
        chosen = f"{self._keys.given(given)}, {given[VALID_FROM]} AS v, {self._staged.number} AS n, {gone(self._load, given)} AS gone{more}"
        turn = f"row_number() OVER (PARTITION BY {alike} ORDER BY n DESC) AS turn"
        every = f"SELECT {chosen} FROM {self._staged.relation} AS r"
        return f"(SELECT e.*, {turn} FROM ({every}) AS e) AS e WHERE turn = 1"

    def _newest(self, more: str) -> Steps[None]:
        """Keeps the newest version of each key that the load has: its time, its end if it has one, and whether it is current."""
        keys = self._keys
        distinct = f"(SELECT DISTINCT {keys.list()} FROM {self._aside('rows')} AS w) AS f"
        still = f"CASE WHEN {self._to} IS NULL THEN 1 ELSE 0 END AS still"
        chosen = f"{keys.stored()}, {self._from} AS v, coalesce({self._to}, {self._from}) AS seen, {still}{more}"
        every = f"SELECT {chosen} FROM {self._table} JOIN {distinct} ON {keys.matches('f')}"
        turn = f"row_number() OVER (PARTITION BY {keys.list()} ORDER BY v DESC) AS turn"
        yield from self._keep("newest", f"SELECT e.* FROM (SELECT e.*, {turn} FROM ({every}) AS e) AS e WHERE turn = 1")

    def _fresh(self) -> str:
        """Returns the time of a new version of `w`: the load's, but behind all that is known of the key (`p`), whatever clocks say."""
        return f"CASE WHEN p.seen >= w.v THEN {self._dialect.later('p.seen', '1')} ELSE w.v END"

    def _comparisons(self) -> Iterator[str]:
        """Yields the conditions under which a staged row, `r`, has the values of a version, `t`."""
        dialect = self._dialect
        for name, column in self._fitted.live.items():
            if name not in (*HISTORY, *self._load.key) and name not in NOT_COMPARED:
                yield dialect.alike(column, f"t.{dialect.identifier(name)}", self._staged.given[name])
        for name in self._fitted.others:
            column = self._fitted.table.columns[dialect.fold(name)]
            if name not in HISTORY and name not in NOT_COMPARED:
                yield dialect.alike(column, f"t.{dialect.identifier(name)}", column.default or "NULL")


def _is_open(until: str) -> str:
    return f"CASE WHEN {until} IS NULL THEN TRUE ELSE FALSE END"


def _is_time(type_: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_timestamp(type_) or pa.types.is_date(type_))
