"""The contract of connectors, between what uses them and the plug-ins in `sources/`.

A connector reads rows from another system. It answers four questions: `spec` (which options it takes), `check` (do these options
work), `discover` (which streams are there), `read` (the rows of chosen streams, from a state on).

`read` yields messages in order. A `Checkpoint` stands behind the rows that it covers: once all rows before it are durable
in the destination, its state may be stored, and a later `read` from there misses none of them. It may give some again.

Cancellation may come at any await; nothing of the connector runs on then. Every plug-in is a module that names itself by its
module name and defines:

    OPTIONS: type[msgspec.Struct]          what the user may write, `type` excepted; unknown keys refused
    async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source

and imports its driver inside `open_source` or below. `connector_runner/registry.py` finds it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

SyncMode = Literal["full_refresh", "incremental"]
Level = Literal["fatal", "error", "warn", "info", "debug", "trace"]


class StreamName(NamedTuple):
    """The name of a stream, and of the namespace (a schema, a database) that it is in, if the connector has namespaces."""

    name: str
    namespace: str | None = None

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}" if self.namespace else self.name


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that a connector can read: a table, an endpoint, a file."""

    name: str
    namespace: str | None = None
    json_schema: dict[str, Any] = {}
    """JSON Schema of a row."""
    modes: tuple[SyncMode, ...] = ("full_refresh",)
    source_cursor: bool = False
    """Whether the connector chooses the cursor itself."""
    cursor: tuple[str, ...] = ()
    """Path of the cursor that the connector proposes, or insists on."""
    primary_key: tuple[tuple[str, ...], ...] = ()
    """Paths of the key; empty: the connector names none."""
    deleted: tuple[str, ...] = ()
    """Path of a column that is not null in a row that the source deleted; empty: the connector tells of no deletions."""
    before: tuple[str, ...] = ()
    """Path of a column that may hold the former values of a row, as an object; privacy rules are applied to them too."""
    added: tuple[str, ...] = ()
    """Columns that the connector adds to each row by itself; they come with any choice of columns."""

    @property
    def known_as(self) -> StreamName:
        """Its name with its namespace."""
        return StreamName(self.name, self.namespace)


class Selected(NamedTuple):
    """A stream to read.

    `columns`: paths of the columns that are wanted; None: all. A connector that can leaves out the others, and always gives the
    key and the cursor.
    """

    stream: Stream
    mode: SyncMode
    cursor: tuple[str, ...] = ()
    primary_key: tuple[tuple[str, ...], ...] = ()
    columns: tuple[tuple[str, ...], ...] | None = None


class Row(NamedTuple):
    """A row. `data`: a JSON object, as the connector wrote it. `emitted_at`: milliseconds since 1970; 0 if not said.

    For a row that the connector cannot read, `data` is a JSON text in place of an object: what is wrong, where, and the row as it stands there. It
    becomes a dead letter.
    """

    stream: StreamName
    data: bytes
    emitted_at: int = 0


class JsonRows(NamedTuple):
    """Rows of one stream as JSON, for connectors that have several at once: cheaper than one by one.

    `rows`: at least one JSON object, as the connector wrote them; some hundred, and at most some MiB, are a good size.
    """

    stream: StreamName
    rows: list[bytes]


class Rows(NamedTuple):
    """Rows in columns, for connectors that have them so: a hundred times cheaper than one by one.

    `rows`: an Arrow table with at least one row, of any types, each column name once; some thousand rows, and at most 8 MiB, are
    a good size. `emitted_at` as in `Row`.
    """

    stream: StreamName
    rows: pa.Table
    emitted_at: int = 0


class Checkpoint(NamedTuple):
    """A state, behind the rows that it covers.

    `stream`: the stream that it is of; None: it is of all streams together, and replaces all others. `state`: JSON that only the
    connector understands; it comes back to `read` as it is. `rows`: how many rows the connector says to have sent since the last
    state of the stream; None: it does not count.
    """

    stream: StreamName | None
    state: bytes
    rows: int | None = None


class Emptied(NamedTuple):
    """All rows of a stream that were older than a cursor are gone at the source: it was emptied, or copied again.

    `before`: the cursor, a number; rows with this value or above stay, rows before this message too. `at`: microseconds since
    1970. A destination that merges removes or marks them; where rows are appended they stay.
    """

    stream: StreamName
    before: int
    at: int


class Ended(NamedTuple):
    """The end of a stream in this read: all its rows came (`complete`), or the connector gave up on it."""

    stream: StreamName
    complete: bool


class Said(NamedTuple):
    """A line for people; secrets are masked."""

    level: Level
    text: str


class Estimate(NamedTuple):
    """How many rows and bytes a stream will have, as the connector guesses; `stream` is None for all together."""

    stream: StreamName | None
    rows: int | None
    bytes: int | None


class Behind(NamedTuple):
    """How far we are behind a source that keeps what we have not stored yet.

    `bytes`: that are not stored; `kept`: that the source keeps for us; `seconds`: since the last change that was given was committed, 0 if
    no other waits; `room`: bytes that it keeps more before it gives us up, None: it keeps any.
    """

    bytes: int
    kept: int
    seconds: float
    room: int | None = None


class NewOptions(NamedTuple):
    """The connector changed its own options (a refresh token was used up): store them before the next run.

    `config`: JSON of its option `config`, or of `auth` where it has no such option.
    """

    config: bytes


Message = Row | JsonRows | Rows | Checkpoint | Emptied | Ended | Said | Estimate | Behind | NewOptions


class Checked(NamedTuple):
    """Whether the options work; `message` says what does not, in the connector's words."""

    ok: bool
    message: str = ""


class Environment(NamedTuple):
    """What a connector gets from the process that runs it.

    `cache`: a folder for what may be kept and made again, such as installed packages. `private`: a folder for this run alone,
    which others cannot read. `heard`: takes lines for people while a call goes on. `secret`: as `private`, in memory where the machine
    has such a folder, for files with secrets; None: there is none.
    """

    cache: Path
    private: Path
    heard: Listener
    secret: Path | None = None


class Listener(Protocol):
    """Takes lines for people."""

    def __call__(self, said: Said, /) -> None: ...


class Source(Protocol):
    """An open connector. Calls come one at a time."""

    async def spec(self) -> Mapping[str, Any]:
        """Returns the JSON Schema of the options that the system behind the connector needs.

        Raises:
            SetupError, Transient
        """
        ...

    async def check(self) -> Checked:
        """Tries the options.

        Raises:
            SetupError, Transient: it could not be tried.
        """
        ...

    async def discover(self) -> Sequence[Stream]:
        """Returns all streams.

        Raises:
            SetupError: the options do not work.
            Transient
        """
        ...

    def read(self, selected: Sequence[Selected], states: Mapping[StreamName | None, bytes]) -> AsyncGenerator[Message, None]:
        """Yields rows and states of the selected streams.

        Args:
            states: the newest stored state by `Checkpoint.stream`; also those of streams of the sync that are not read this time.

        Raises:
            SetupError: a person must act; trying again does not help.
            Transient: trying again from the newest state may help.
        """
        ...

    async def close(self) -> None:
        """Ends what runs."""
        ...


@runtime_checkable
class Confirmed(Protocol):
    """A connector that wants to know, while `read` goes on, which states are stored: the system behind it may then forget."""

    async def stored(self, states: Mapping[StreamName | None, bytes]) -> None:
        """Takes the newest stored states. May be called between two messages of `read`."""
        ...


@runtime_checkable
class Cleaned(Protocol):
    """A connector that makes things in the system behind it, which stay there when it is removed."""

    async def cleanup(self) -> Sequence[str]:
        """Removes them; returns what was removed.

        Raises:
            SetupError, Transient
        """
        ...
