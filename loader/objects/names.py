"""Names of objects: the plan is the name, so a repeat of a load overwrites itself instead of adding rows.

    {table}/dt={date}/hr={hour}/<connection>-<lane>-<first>-<last>-0.parquet

Pure. Rows are divided by their own time, never by the clock: a repeat an hour later must find the same names. The time of a row
is its `received_at`, else its `timestamp`; rows without one go to `unknown`.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterator
from typing import TYPE_CHECKING

from loader.contract.warehouse import LoadPlan, TableLoad

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_PREFIX = "{table}/dt={date}/hr={hour}/"
FIELDS = frozenset({"table", "date", "hour"})
TIME_COLUMNS = ("received_at", "timestamp")
UNKNOWN = "unknown"
SEGMENT_BYTES = 200
"""File systems allow 255 bytes for one segment; the rest is room for the template's text around it."""

PART_BYTES = 50
"""The most bytes that a template may put around `{table}` in one segment."""

_OBJECT = re.compile(r".+-.+-\d{20}-\d{20}-\d+\.(?:parquet|(?:ndjson|csv)(?:\.gz|\.zst)?)")
_PLAIN = frozenset(string.ascii_letters + string.digits + "_-.")


def check_prefix(prefix: str) -> None:
    """Checks a template of prefixes.

    Raises:
        ValueError: says what is wrong and what is allowed.
    """
    try:
        fields = {
            field for _, field, spec, conversion in string.Formatter().parse(prefix) if field is not None or spec or conversion
        }
    except ValueError as error:
        raise ValueError(f"prefix {prefix!r} is not readable: {error}") from error
    unknown = fields - FIELDS
    if unknown:
        raise ValueError(f"prefix {prefix!r}: {{{min(map(str, unknown))}}} is not known; known: {{table}}, {{date}}, {{hour}}")
    if "table" not in fields:
        raise ValueError(f"prefix {prefix!r} must hold {{table}}, or tables would overwrite each other")
    if prefix.startswith("/") or ".." in prefix.split("/") or "\0" in prefix:
        raise ValueError(f"prefix {prefix!r} must stay below the destination's own directory")
    if any(field not in prefix for field in (f"{{{name}}}" for name in fields)):
        raise ValueError(f"prefix {prefix!r}: only {{table}}, {{date}} and {{hour}} as they are, without a format")
    for part in prefix.strip("/").split("/"):
        if part.startswith(("_", ".")):
            raise ValueError(f"prefix {prefix!r}: {part!r} starts as private names do; readers pass over them, and some are ours")
        if len(part.encode()) > PART_BYTES:
            raise ValueError(
                f"prefix {prefix!r}: {part[:20]!r}… is longer than {PART_BYTES} bytes, and file systems allow 255 with the table"
            )


def split_prefix(prefix: str) -> tuple[str, str]:
    """Splits a template into the part that is the same for all objects, with its slash at the end, and the rest.

    >>> split_prefix("raw/shop/{table}/dt={date}/")
    ('raw/shop/', '{table}/dt={date}/')
    """
    head, slash, _ = prefix.partition("{")[0].rpartition("/")
    root = head + slash
    return root, prefix[len(root) :]


def divide(load: TableLoad, plan: LoadPlan, prefix: str, extension: str) -> Iterator[tuple[str, pa.Table]]:
    """Yields the objects of one table's rows: path below the destination, and rows in their order.

    Args:
        load: the rows.
        plan: the plan of the load.
        prefix: template that passed `check_prefix`.
        extension: such as `parquet` or `ndjson.gz`.
    """
    # the 0 stays: an unfinished plan of an earlier version must find its names
    name = f"{segment(plan.connection)}-{segment(plan.lane)}-{plan.first:020d}-{plan.last:020d}-0.{extension}"
    for date, hour, rows in _by_time(load.rows, day="{date}" in prefix, hour="{hour}" in prefix):
        yield f"{folder(prefix, load.table, date, hour)}/{name}", rows


def folder(prefix: str, table: str, date: str = UNKNOWN, hour: str = UNKNOWN) -> str:
    """Returns the folder of a table's objects of one hour, below the destination."""
    return prefix.strip("/").format(table=segment(table), date=date, hour=hour)


def is_ours(key: str) -> bool:
    """Whether an object has a name that `divide` gives, in any format and under any prefix."""
    return _OBJECT.fullmatch(key.rpartition("/")[2]) is not None


def table_in(key: str, prefix: str) -> str:
    """Returns the table of an object, as its key has it; empty where the prefix was another one when it was written."""
    pattern, known = "", set[str]()
    for literal, field, _, _ in string.Formatter().parse(prefix.strip("/")):
        pattern += re.escape(literal)
        if field is not None:
            pattern += f"(?P={field})" if field in known else f"(?P<{field}>[^/]*)"
            known.add(field)
    found = re.fullmatch(pattern, key.rpartition("/")[0])
    return found["table"] if found is not None else ""


def segment(text: str) -> str:
    """Returns text as one segment of a path: letters and digits of any script stay, others are percent-encoded; never too long."""
    encoded = "".join(character if character in _PLAIN or character.isalnum() else _percent(character) for character in text)
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]  # neither hidden nor the directory above
    if encoded.startswith("_"):
        encoded = "%5F" + encoded[1:]  # readers take names with an underscore for private ones, and `_penstock` is ours
    if 0 < len(encoded.encode()) <= SEGMENT_BYTES:
        return encoded
    tail = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return encoded.encode()[: SEGMENT_BYTES - 17].decode(errors="ignore") + "_" + tail


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _by_time(rows: pa.Table, *, day: bool, hour: bool) -> Iterator[tuple[str, str, pa.Table]]:
    if not day and not hour:
        yield "", "", rows
        return
    import pyarrow as pa
    import pyarrow.compute as pc

    name = next(
        (name for name in TIME_COLUMNS if name in rows.column_names and pa.types.is_timestamp(rows.schema.field(name).type)), None
    )
    if name is None:
        yield UNKNOWN, UNKNOWN, rows
        return
    hours = pc.floor_temporal(rows.column(name), unit="hour" if hour else "day")
    times = pc.unique(hours)
    # only the few distinct times become text: a text for every row would cost as much as encoding the rows
    labels = pc.strftime(times, format="%Y-%m-%d %H").to_pylist()
    for label, time in sorted(zip(labels, times, strict=True), key=lambda each: each[0] or ""):
        date, of_day = label.split(" ") if label is not None else (UNKNOWN, UNKNOWN)
        if len(labels) == 1:
            yield date, of_day, rows
        else:
            yield date, of_day, rows.filter(pc.is_null(hours) if label is None else pc.equal(hours, time))
