"""Sessions and destinations of SQL warehouses, as the contract demands; a plug-in adds its driver.

Nothing here waits: each call of the contract is a piece of work, and the plug-in's `_run` does it with its driver.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from loader.contract.check import check_destination
from loader.contract.warehouse import Capabilities, CheckResult, LoadPlan, LoadReport, Session, TableLoad, TablePatch, TableSchema
from loader.sql import ledger, refresh
from loader.sql import patch as patching
from loader.sql.dialect import Dialect
from loader.sql.ledger import Holder
from loader.sql.load import Bulk, Loader
from loader.sql.merge import Straight
from loader.sql.steps import Ask, Run, Steps
from loader.sql.text import id_columns_of, named
from loader.sql.writes import people

T = TypeVar("T")

IDS_AT_ONCE = 1000


class SqlSession(ABC):
    """A connection's right to write to a schema. `called`: its destination in messages: `postgres destination "wh"`."""

    def __init__(self, called: str, dialect: Dialect, bulk: Bulk, schema: str, holder: Holder) -> None:
        self._called = called
        self._dialect = dialect
        self._schema = schema
        self._holder = holder
        self._loader = Loader(dialect, bulk, schema, Straight())

    @abstractmethod
    def _run(self, what: str, steps: Steps[T]) -> Coroutine[Any, Any, T]:
        """Does a piece of work, and cleans up after a failed one.

        Args:
            what: the purpose, for messages.
            steps: the work.

        Raises:
            The errors of our tree.
        """

    def marks(self) -> Coroutine[Any, Any, Mapping[tuple[str, str], int]]:
        return self._run(
            f"reading the ledger of {self._called}", ledger.read_marks(self._dialect, self._schema, self._holder.connection)
        )

    def forget(self, marks: Sequence[tuple[str, str]]) -> Coroutine[Any, Any, None]:
        work = ledger.forget_marks(self._dialect, self._schema, self._holder.connection, marks)
        return self._run(f"cleaning the ledger of {self._called}", work)

    def describe(self, tables: Sequence[str]) -> Coroutine[Any, Any, Mapping[str, TableSchema | None]]:
        return self._run(f"describing {named(tables)} of {self._called}", patching.describe(self._dialect, self._schema, tables))

    def create(self, patches: Sequence[TablePatch]) -> Coroutine[Any, Any, Mapping[str, TableSchema]]:
        work = patching.create(self._dialect, self._schema, patches)
        return self._run(f"creating {named([patch.table for patch in patches])} of {self._called}", work)

    def patch(self, patch: TablePatch) -> Coroutine[Any, Any, TableSchema]:
        return self._run(f'changing table "{patch.table}" of {self._called}', patching.apply(self._dialect, self._schema, patch))

    def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> Coroutine[Any, Any, LoadReport]:
        return self._run(f"loading into {self._called}", self._load(plan, loads))

    def probe(self, loads: Sequence[TableLoad]) -> Coroutine[Any, Any, None]:
        return self._run(f"loading into {self._called}", self._probe(loads))

    def abandon(self, table: str) -> Coroutine[Any, Any, None]:
        work = refresh.abandon(self._dialect, self._schema, self._holder, table)
        return self._run(f'giving up the refresh of table "{table}" of {self._called}', work)

    def _load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> Steps[LoadReport]:
        report = yield from self._loader.bring(self._holder, plan, loads)
        self._holder = self._holder._replace(loads=self._holder.loads + 1)
        return report

    def _probe(self, loads: Sequence[TableLoad]) -> Steps[None]:
        yield from self._loader.bring(self._holder, None, loads)


class SqlDestination(ABC):
    """A schema of a database. `called`: as in `SqlSession`."""

    capabilities: Capabilities

    def __init__(self, called: str, schema: str) -> None:
        self._called = called
        self._schema = schema

    @abstractmethod
    def _once(self, what: str, work: Callable[[Dialect], Steps[T]]) -> Coroutine[Any, Any, T]:
        """Does a piece of work outside of sessions, as `SqlSession._run`. The dialect may be known only afterwards."""

    @abstractmethod
    def open_session(self, connection: str, epoch: int) -> Coroutine[Any, Any, Session]:
        """See `Destination.open_session`."""

    @abstractmethod
    def close(self) -> Coroutine[Any, Any, None]:
        """See `Destination.close`."""

    def check(self) -> Coroutine[Any, Any, Sequence[CheckResult]]:
        what = f"checking {self._called}"
        return check_destination(
            self,
            lambda table: self._once(what, lambda dialect: _count(dialect, self._schema, table)),
            lambda table, connection: self._once(what, lambda dialect: _drop(dialect, self._schema, table, connection)),
        )

    def find_ids(self, connection: str, ids: Sequence[str], key: str) -> Coroutine[Any, Any, Mapping[str, Mapping[str, int]]]:
        what = f"looking for ids in {self._called}"
        return self._once(
            what, lambda dialect: find_ids(dialect=dialect, schema=self._schema, connection=connection, ids=ids, key=key)
        )

    def forget_person(
        self, names: Sequence[str], *, columns: Sequence[str] = (), epoch: int, delete: bool
    ) -> Coroutine[Any, Any, Mapping[str, int]]:
        del epoch  # rows are deleted in a transaction
        return self._once(
            f"looking for a person in {self._called}",
            lambda dialect: people.forget_person(dialect, self._schema, names, columns=columns, delete=delete),
        )


def find_ids(
    dialect: Dialect, schema: str, connection: str, ids: Sequence[str], key: str
) -> Steps[Mapping[str, Mapping[str, int]]]:
    """Returns by table how often ids are in it, as `FindsIds` says."""
    live = yield from dialect.read_columns(schema, (yield from ledger.read_tables(dialect, schema, connection)))
    found: dict[str, dict[str, int]] = {}
    for table, there in live.items():
        column = next((name for name in id_columns_of(key) if dialect.fold(name) in there.columns), None)
        if column is None:
            continue
        text = dialect.as_text(dialect.identifier(column))
        counts = found.setdefault(table, {})
        for start in range(0, len(ids), IDS_AT_ONCE):
            some = ids[start : start + IDS_AT_ONCE]
            places = ", ".join(dialect.parameter(number) for number in range(1, len(some) + 1))
            query = f"SELECT {text}, count(*) FROM {dialect.qualified(schema, table)} WHERE {text} IN ({places}) GROUP BY 1"  # noqa: S608
            counts.update(dict((yield Ask(query, some, long=True))))
    return found


def _count(dialect: Dialect, schema: str, table: str) -> Steps[int]:
    ((count,),) = yield Ask(f"SELECT count(*) FROM {dialect.qualified(schema, table)}")  # noqa: S608 - names are quoted
    return int(count)


def _drop(dialect: Dialect, schema: str, table: str, connection: str) -> Steps[None]:
    yield Run(f"DROP TABLE IF EXISTS {dialect.qualified(schema, table)}")
    yield from ledger.forget(dialect, schema, connection)
