"""What a user writes for a DuckDB source."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from connector_runner.sql.plan import PAGE_ROWS, Lookback, PageRows
from connector_runner.sql.wanted import Exclude, Include
from shared.reading.units import ByteSize, Duration


class OPTIONS(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a DuckDB source."""

    path: Annotated[str, Meta(min_length=1, description="the database file; it is opened for reading only")]
    include: Include = field(default_factory=lambda: ["*"])
    exclude: Exclude = field(default_factory=list)
    page_rows: PageRows = PAGE_ROWS
    lookback: Lookback = field(default_factory=lambda: Duration(0))
    memory_limit: Annotated[
        ByteSize, Meta(description="memory that DuckDB may use; what does not fit goes to a private folder")
    ] = field(default_factory=lambda: ByteSize(512 << 20))
    threads: Annotated[int, Meta(ge=1, le=64, description="DuckDB's own threads")] = 1
    lock_timeout: Annotated[
        Duration, Meta(description="how long to wait for a program that writes the file, such as a loader, to close it")
    ] = field(default_factory=lambda: Duration(10))

    def __post_init__(self) -> None:
        if self.path.startswith((":memory:", "md:", "motherduck:")) or "://" in self.path:
            raise ValueError(f"path: {self.path!r} is not a local file, which is what this connector reads")
