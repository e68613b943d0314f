"""The contract of destinations with tables, between the loader's core and the plug-ins in `warehouses/` and `files/`.

The core does the work that is the same for all destinations: consuming, planning, flattening, names, types, conflicts, retries,
isolation of bad rows and failing tables, dead letters, acknowledging. A plug-in describes its tables (`Capabilities`, `describe`),
changes a table (`patch`), and loads rows for good (`load`, `loads.py`). It gets Arrow tables whose column names and types already fit.

`penstock check` calls `check`, on a destination that it opened only for that. The holder of a connection's lease calls
`open_session` once, with a growing epoch; that fences every older session of the connection. Then it calls, one at a time for
each session: `describe` and `create` for many tables, `patch` per table, `load` per plan. It always calls `close`, also after an
error. One destination may have many open sessions, of many connections, in one process and in others.

Blocking drivers run through the thread gate of `Environment`. Cancellation may come at any await: then no row of the present plan
may be visible, now or later.

Every plug-in is one file that names itself by its module name and defines:

    OPTIONS: type[msgspec.Struct]          what the user may write, `type` excepted; unknown keys refused
    CAPABILITIES: Capabilities             of the type, known without a connection
    async def open_destination(name: str, options: OPTIONS, environment: Environment) -> Destination

and imports its driver inside `open_destination` or below, never at import. `loader/registry.py` finds it,
`tests/contract/destinations/` holds it to this page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

from loader.contract.loads import Emptied as Emptied
from loader.contract.loads import LoadPlan as LoadPlan
from loader.contract.loads import LoadReport as LoadReport
from loader.contract.loads import Part as Part
from loader.contract.loads import TableLoad as TableLoad
from shared.locks import KeyedLocks
from shared.scratch import Scratch
from shared.stores.staging import Staging, StagingOptions, open_staging
from shared.telemetry.counts import Counts, Uncounted

if TYPE_CHECKING:
    from shared.threads import ThreadGate


class Kind(StrEnum):
    """Logical types of columns; the joins between them are in `loader/types/lattice.py`."""

    BOOLEAN = "boolean"
    BIGINT = "bigint"
    DOUBLE = "double"
    DECIMAL = "decimal"
    TIMESTAMP = "timestamp"
    DATE = "date"
    TEXT = "text"
    JSON = "json"
    OTHER = "other"
    """A type of the warehouse that we do not know: it gets values as text and casts them."""
    NUMBER = "number"
    """Numbers with more digits than a double has, as text. Only values have this kind, never a column."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The core's facts about a destination, to prepare rows for it; data, no code."""

    name_limit: int
    """Longest identifier."""
    name_unit: Literal["bytes", "characters"]
    transactional: bool
    """`load` commits rows of all tables and the ledger together. Otherwise the object's name carries the plan."""
    merge: Literal["no", "now", "eventually"]
    """Whether `write="merge"` is supported, and when a reader sees one row a key: with the commit, or some time later; then the
    plug-in's page says how to read final rows at once."""
    stream: bool
    """Whether micro-batches of a few rows are sensible."""
    evolve: bool
    """Whether tables have a stored schema, so that `describe` and `patch` mean something. False for files, whose schema is the
    batch's."""
    widen: frozenset[tuple[Kind, Kind]] = frozenset()
    """Pairs (from, to) of kinds between which `patch` can change a column."""
    kinds: frozenset[Kind] = frozenset(Kind) - {Kind.NUMBER}
    """Kinds that a new column may have; other kinds are created as text."""
    replace: bool = False
    """Whether `write="replace"` is supported: a full refresh in parts, whose rows take the place of all others in one moment."""
    deletes: bool = False
    """Whether a merge can delete rows (`TableLoad.deleted`)."""
    marks: bool = False
    """Whether a merge can mark rows as deleted that keep their values (`TableLoad.marked`)."""
    empties: bool = False
    """Whether rows can go that are older than a cursor (`TableLoad.emptied`), in each way to write that is supported."""
    insert_only: bool = False
    """Whether `write="insert_only"` is supported."""
    history: bool = False
    """Whether `write="history"` is supported, with deletions."""
    coalesce: bool = True
    """Whether a merge can keep stored values where the incoming row has nulls. Has a meaning only if `merge` is not `no`."""
    max_columns: int = 1000
    table_limit: int | None = None
    """Longest name of a table that holds other characters than ASCII letters, digits and `_`, where that is shorter: the server names a
    file so, and spells them longer there. In the unit of `name_limit`."""
    case: Literal["lower", "upper", "ascii", "keep"] = "keep"
    """How the warehouse folds names that differ only in case: names equal after folding are one column. `ascii`: as `lower`, but
    other letters than those of ASCII stay as they are."""
    unfit: str | None = None
    """A pattern that no name may match, such as a blank at its end; a name that matches is spelled with `_` and a suffix."""
    system_columns: frozenset[str] = frozenset()
    """Names that every table has already, such as Postgres's `ctid`: no column can have them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The values that a live column holds if it is narrower than its kind: smaller numbers, shorter texts.

    The core hands over no value outside the limits (`loader/fitting/limits.py`); such a value goes where `on_conflict` says.
    Limits are for values that the warehouse would round or cut without a word, and for values that it would refuse row by row.
    """

    lowest: int | None = None
    """Smallest integer or decimal; for timestamps in microseconds since 1970, for dates in days."""
    highest: int | None = None
    single: bool = False
    """A double must be one that four bytes write the same: 0.1, but not 3.141592653589793."""
    seconds_digits: int | None = None
    """The digits of a second's fraction that a timestamp keeps."""
    characters: int | None = None
    """Longest text."""
    digits: tuple[int, int] | None = None
    """Precision and scale: text must be a decimal number with no more digits."""
    one_of: frozenset[str] | None = None
    """All labels of an enum."""
    accepted: str | None = None
    """A pattern (RE2) that the text must match."""
    refused: str | None = None
    """A pattern (RE2) that the text must not match."""
    float_bytes: Literal[4, 8] | None = None
    """Numbers inside the text must fit so many bytes."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: `native` is the warehouse's own type, set if the user forced it or it was read from the warehouse."""

    name: str
    kind: Kind
    native: str | None = None
    limits: Limits | None = None
    """Set by `describe` and `patch` for a column that is narrower than its kind."""
    writable: bool = True
    """False if the warehouse computes it: it takes no values, and each goes where `on_conflict` says."""
    owner: str | None = None
    """Which source path the column was made for, as `loader/fitting/claims.py` spells it. `patch` stores it with a column it
    adds, where the warehouse has a place for it, and `describe` gives it back."""


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A live table as `describe` found it."""

    columns: Mapping[str, Column]
    primary_key: tuple[str, ...] = ()
    own_key: bool = False
    """Whether Penstock made a key of this table; only then may it drop it."""
    refused: frozenset[str] = frozenset()
    """Set by `patch`: columns that could be neither added nor widened, for a reason of their own (a view needs the column's type
    as it is). Their values go where `on_conflict` says, instead of holding up the table."""


@dataclass(frozen=True, slots=True)
class TablePatch:
    """The changes that a batch needs; no column is dropped or narrowed."""

    table: str
    add: tuple[Column, ...] = ()
    widen: tuple[Column, ...] = ()
    primary_key: tuple[str, ...] | None = None
    """The key rows are merged on; empty: rows are appended, and a key that Penstock made is dropped. None leaves the key alone."""
    cursor: str | None = None
    """The column that tells which of two rows of a key is the newer one, for destinations that must know it when they create the
    table."""
    deletes: bool = False
    """Whether rows may be deletions, for destinations that must know it then."""
    history: bool = False
    """Whether the table keeps versions, as `writes.py` says: `add` has the columns of `HISTORY` that it lacks, `primary_key` ends with
    `_valid_from`."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One step of `penstock check`: its name, whether it worked, and what to do if not."""

    step: str
    ok: bool
    message: str = ""


class Session(Protocol):
    """A connection's right to write to a destination, under one epoch."""

    async def marks(self) -> Mapping[tuple[str, str], int]:
        """Returns the last loaded sequence by (table, lane), from the ledger; empty if the destination keeps none."""
        ...

    async def forget(self, marks: Sequence[tuple[str, str]]) -> None:
        """Removes marks that are no longer needed, by (table, lane) as `marks` names them; does nothing if there are none.

        Raises:
            NotConnected, Transient, SetupError
        """
        ...

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        """Returns the live tables by name, read from the destination, not from a cache; None if a table does not exist.

        Raises:
            NotConnected, Transient, SetupError
            Permanent, TableBusy, TableSetupError: one of the tables cannot be read; `describe` of each tells which.
        """
        ...

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        """Creates new tables together, because a transaction for each is slow; returns their new state.

        `patches` are sorted by table. A table whose name is taken by then is left out of the result. After an error none is
        created. In both cases the core calls `patch` for each table, which does what is possible and names the fault of the
        table.

        Raises:
            As `patch`.
        """
        ...

    async def patch(self, patch: TablePatch) -> TableSchema:
        """Makes the table fit, and creates it if needed, under the destination's own lock; returns its new state.

        It reads the live table again under the lock and accepts another writer's changes, so the caller must compare the result
        with the patch. It leaves out a single column that the destination refuses, and names it in `refused`.

        Raises:
            NotConnected, Transient, SetupError: the whole destination does not work; all rows wait.
            Permanent: the destination refuses the table or its key; the message has its words.
            TableBusy, TableSetupError: as Permanent, for this table only; its rows wait, the others go on.
        """
        ...

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        """Commits all of `loads` and the ledger rows of `plan`, or nothing.

        Without transactions (`transactional` is false) each table arrives alone, under a token made of the plan and the table:
        the name of an object, a deduplication token, the id of a job. The same plan comes again, with the same boundaries, until
        all of it has arrived. So an insert with a known token is left out, and an insert that failed for good takes the next
        number. Such a destination must find refused rows before it sends any row, because events that one table refuses leave all
        tables.

        Raises:
            RowsRejected: rows of one table do not fit; nothing was committed.
            RunOver: a part of a full refresh came too late; nothing was committed.
            Fenced: a session with a newer epoch exists; nothing was committed.
            WentBack: a transactional destination is not as the session left it; nothing was committed.
            TableChanged: a table was altered or dropped since it was described; nothing was committed.
            NotConnected, Transient: the load may be committed or not; `marks` of a new session tells.
            SetupError: a person must act, and no table can be loaded until then.
            Permanent, TableBusy, TableSetupError: one of the tables cannot be loaded; `probe` of each tells which.
        """
        ...

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        """Does all steps of `load` and takes them back, so that the core can find rows that a destination refuses without naming
        them. The part that ends a full refresh does not end it here.

        Raises:
            As `load`; destinations that refuse no rows return at once.
        """
        ...

    async def abandon(self, table: str) -> None:
        """Gives up the open full refresh of a table: removes the rows of the refresh; the table stays as it is.

        A new session may do it too. Afterwards `load` takes no part of that run. Does nothing if no run is open, or if `replace`
        is false.

        Raises:
            Fenced, NotConnected, Transient, SetupError
        """
        ...

    async def close(self) -> None:
        """Frees the session's resources. Never raises."""
        ...


class Destination(Protocol):
    """One destination of the project, open in this process."""

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of this destination, which may differ from its module's `CAPABILITIES` by the server's version and
        settings."""
        ...

    async def check(self) -> Sequence[CheckResult]:
        """Tries to reach it, and to create, write, read, replace and drop a test table; every step has words that a person can act on."""
        ...

    async def open_session(self, connection: str, epoch: int) -> Session:
        """Fences every session of `connection` with a lower epoch and ends the work that they left open.

        Raises:
            Fenced: a session with a higher epoch exists.
            NotConnected, Transient, SetupError
        """
        ...

    async def close(self) -> None:
        """Closes pools and files. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Environment:
    """The resources of the process that a plug-in may use."""

    gate: ThreadGate
    """The threads for blocking drivers. Each destination has its own gate: its calls wait for each other, and hold up no other
    destination."""
    locks: KeyedLocks = field(default_factory=KeyedLocks)
    """Locks for things that two destinations of one process may both name, such as a file."""
    telemetry: Counts = field(default_factory=Uncounted)
    """Counts things that only the plug-in sees, such as attempts it repeats by itself. The core counts loads, rows and errors."""
    scratch: Scratch = field(default_factory=Scratch)
    """Room for things that do not fit into memory. All destinations of the process share it; a plug-in keeps to `most_bytes`."""

    async def open_staging(self, options: StagingOptions, what: str) -> Staging:
        """Opens the store from which a warehouse pulls its rows; the plug-in closes it.

        Args:
            options: the destination's option `staging`.
            what: the destination's name in messages, such as `clickhouse destination "wh"`.

        Raises:
            SetupError: the driver is not installed, or the settings of the machine are wrong.
        """
        return await open_staging(options, self.gate, self.scratch, what)
