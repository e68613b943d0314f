"""Files as rows: CSV, NDJSON and Parquet in a folder, in a bucket of S3, or at addresses of HTTP.

    exports:
      type: files
      path: /srv/exports
      streams:
        orders: {files: "orders/*.csv.gz", primary_key: [id]}

Each read gives the files that are new or changed, each whole. A file of a bucket or an address is brought into the private folder first.

Traps: a guess of types from the first rows would fail at a later one, so a CSV file is read twice; an unclosed quote swallows rows.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from connector_runner.contract import Environment, Source
from shared.stores.s3.options import S3Options

Format = Literal["csv", "ndjson", "parquet"]
ColumnType = Literal["text", "integer", "number", "boolean", "date", "timestamp"]
Added = Literal["file", "row", "modified_at"]


class FileStream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stream: which files it is made of, and how they are written."""

    files: Annotated[
        str | list[str],
        Meta(
            description="patterns of paths below the folder or the bucket, where `*` is any text but a slash and `**` any folders; or addresses"
        ),
    ]
    format: Annotated[Format | None, Meta(description="default: by the ending, before `.gz` or `.zst`")] = None
    primary_key: Annotated[list[str], Meta(description="columns that identify a row")] = field(default_factory=list)
    delimiter: Annotated[
        Annotated[str, Meta(min_length=1, max_length=1)] | None,
        Meta(
            description="of CSV: the character between values; default: comma, semicolon, tab or `|`, the one that the first row has most"
        ),
    ] = None
    quote: Annotated[str, Meta(min_length=1, max_length=1, description="of CSV: the character around values")] = '"'
    escape: Annotated[
        Annotated[str, Meta(min_length=1, max_length=1)] | None,
        Meta(description="of CSV: the character before a quote that belongs to a value; a quote written twice always does"),
    ] = None
    skip_lines: Annotated[int, Meta(ge=0, description="of CSV: lines before the first row that are left out")] = 0
    header: Annotated[bool, Meta(description="of CSV: the first row has the names; else they are column_1 and so on")] = True
    encoding: Annotated[str, Meta(description="of CSV: such as `latin-1` or `utf-16`")] = "utf-8"
    nulls: Annotated[list[str], Meta(description="of CSV: texts without quotes that are no value")] = field(
        default_factory=lambda: [""]
    )
    columns: Annotated[dict[str, ColumnType], Meta(description="of CSV: types of columns")] = field(default_factory=dict)
    types: Annotated[
        Literal["infer", "text"],
        Meta(
            description="of CSV: of the other columns; `infer`: what all values of a column in the file are, `text`: as they are written"
        ),
    ] = "infer"

    @property
    def patterns(self) -> list[str]:
        """Its patterns."""
        return [self.files] if isinstance(self.files, str) else list(self.files)


class OPTIONS(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of files as a source."""

    path: Annotated[str | None, Meta(description="the folder, as an absolute path")] = None
    s3: Annotated[S3Options | None, Meta(description="the bucket, in place of a folder", extra={"secret": True})] = None
    headers: Annotated[dict[str, str], Meta(description="headers of requests for addresses", extra={"secret": True})] = field(
        default_factory=dict
    )
    streams: Annotated[dict[str, FileStream], Meta(min_length=1, description="streams by name")]
    add: Annotated[
        list[Added],
        Meta(description="columns more: `_file`, `_row` (its number in the file, from 1) and `_modified_at`"),
    ] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path is not None and self.s3 is not None:
            raise ValueError("write `path` or `s3`: a connector reads from one place")
        if self.path is not None and not self.path.startswith("/"):
            raise ValueError(
                f"`path` is {self.path!r}; write an absolute path: the connector may read in another folder, or elsewhere"
            )
        for name, stream in self.streams.items():
            for each in stream.patterns:
                if not each.startswith(("http://", "https://")) and self.path is None and self.s3 is None:
                    raise ValueError(f"streams: {name} has the pattern {each!r}; write `path` or `s3`, where it begins")


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:
    """Opens the files; nothing is read yet.

    Raises:
        SetupError: the driver of S3 is not installed.
    """
    from connector_runner.sources.files.source import FilesSource

    return FilesSource(name, options, environment)
