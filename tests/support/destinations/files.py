"""Files under test: a directory of its own, each format read by pyarrow or the standard library."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from loader.contract.warehouse import (
    Kind,
)
from loader.types.lattice import ARROW
from tests.support.destinations.subject import Row, Shape


class FilesSubject:
    """Objects in one format, somewhere."""

    def __init__(self, label: str, format_: str) -> None:
        self.label = f"{label}-{format_}"
        self.document: dict[str, Any] = {"type": label, "format": format_}
        self._format = format_

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        from loader.objects.names import segment

        rows: list[Row] = []
        for name in self.files():
            if name.split("/")[0] == segment(table):
                rows += self._read(self.content(name), shape)
        return rows

    async def run(self, statement: str) -> None:
        raise AssertionError(f"files know no SQL: {statement}")

    def files(self) -> list[str]:
        """Returns the objects, as paths below the destination."""
        raise NotImplementedError

    def content(self, name: str) -> bytes:
        """Returns what is in an object."""
        raise NotImplementedError

    def _read(self, data: bytes, shape: Shape) -> list[Row]:
        if self._format == "parquet":
            from pyarrow import parquet

            rows: list[Row] = parquet.ParquetFile(io.BytesIO(data)).read().to_pylist()
            return rows
        if self._format == "ndjson":
            return [_from_json(line, shape) for line in gzip.decompress(data).splitlines()]
        from pyarrow import csv

        convert = csv.ConvertOptions(
            column_types={name: ARROW[kind] for name, kind in shape.items()},
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        with pa.input_stream(io.BytesIO(data), compression="gzip") as stream:
            table = csv.read_csv(stream, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=convert)
        listed: list[Row] = table.to_pylist()
        return listed


class LocalSubject(FilesSubject):
    """A directory of its own, in one format."""

    def __init__(self, folder: Path, format_: str) -> None:
        super().__init__("local", format_)
        self.root = folder / "lake"
        self.document["path"] = str(self.root)

    def files(self) -> list[str]:
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if path.parts[0] != "_penstock")

    def content(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


def _from_json(line: bytes, shape: Shape) -> Row:
    reading: dict[Kind, Callable[[Any], Any]] = {
        Kind.TIMESTAMP: datetime.fromisoformat,
        Kind.DATE: date.fromisoformat,
        Kind.DECIMAL: Decimal,
    }
    return {name: reading.get(shape[name], lambda value: value)(value) for name, value in json.loads(line).items()}
