"""Rows in columns as lines of JSON, for people and pipes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


def lines_of(rows: pa.Table) -> Iterator[bytes]:
    """Yields each row as a JSON object. JSON stays as it is; numbers keep all digits; NaN and infinity become null."""
    import pyarrow as pa

    columns = [_raw(values) if isinstance(values.type, pa.JsonType) else values.to_pylist() for values in rows.columns]
    names = rows.column_names
    for row in zip(*columns, strict=True):
        yield _encode(dict(zip(names, row, strict=True)))


def _raw(values: Any) -> list[msgspec.Raw | None]:
    return [None if text is None else msgspec.Raw(text.encode()) for text in values.to_pylist()]
