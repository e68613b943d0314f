"""`penstock.load(...)`: rows of a Python program into a table of a destination, once."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import uuid
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.control.data.load import Loaded, load_rows
from penstock.control.data.row_files import BATCH_ROWS
from shared.errors import ConfigError, Problem, SetupError

if TYPE_CHECKING:
    import pyarrow as pa

    from loader.contract.writes import Write
    from loader.rows.given import Rows


def load(
    data: Any,
    *,
    table: str,
    destination: str | Mapping[str, Any],
    mode: Write = "append",
    key: Sequence[str] = (),
    cursor: str | None = None,
    delete_column: str | None = None,
    token: str | None = None,
    types: Mapping[str, str] | None = None,
    project: str | Path = "penstock.yaml",
) -> Loaded:
    """Loads rows into a table; returns what was loaded.

    Args:
        data: an Arrow table or reader; anything that gives an Arrow stream, such as a DataFrame of pandas or Polars; a list of
            dictionaries; an iterator of them.
        table: it is created where it is missing.
        destination: its name in the project file, or its entry: `{"type": "duckdb", "path": "wh.duckdb"}`.
        mode: append; merge: one row for each `key`; replace: in place of all rows, at once; insert_only: rows whose `key` is new;
            history: each version of a row, with the time from which and until which it is true.
        key: columns that identify a row.
        cursor: of two rows of one key the one with the larger value here wins; without it the later one. A version begins at it.
        delete_column: a row with a value here deletes the row of its key; with merge and history.
        token: names the load: one of the same name is not repeated, and goes on where it was cut off. Default: made of the content;
            an iterator has none, so each call is a new load.
        types: SQL types of new columns.
        project: the project file in which `destination` is named.

    Raises:
        ConfigError: no such destination, or it cannot do what is wanted.
        Permanent: rows do not fit; says which.
        PenstockError: the destination does not take them; the same call goes on there.
    """
    from loader.delivery.rows import RowsWanted

    name, document = _destination(destination, Path(project))
    rows = _rows(data)
    wanted = RowsWanted(
        table=table,
        token=token or _token(rows),
        write=mode,
        key=tuple(key),
        cursor=cursor,
        column_types=dict(types or {}),
        deleted=delete_column,
    )
    return _run(load_rows(name, document, wanted, _batches(rows)))


def _destination(given: str | Mapping[str, Any], project: Path) -> tuple[str, dict[str, Any]]:
    if not isinstance(given, str):
        return "given", dict(given)
    from penstock.control.reach import local_environment
    from penstock.stack.home import DEFAULT_HOME, Home
    from shared.project.variables import interpolate
    from shared.reading.document import parse_document

    try:
        known = parse_document(project.read_text(encoding="utf-8"), str(project)).get("destinations") or {}
    except OSError as exc:
        raise SetupError(f"project file {project} cannot be read: {exc.strerror}; name another one with `project`") from exc
    if given not in known:
        raise ConfigError(
            [Problem("destinations", f"{project} names no destination {given!r}; known: {', '.join(known) or 'none'}")]
        )
    environment = local_environment(Home(project.parent / DEFAULT_HOME))
    return given, interpolate({"destinations": {given: known[given]}}, environment)["destinations"][given]


def _rows(data: Any) -> pa.Table | list[dict[str, Any]] | Iterator[Any]:
    import pyarrow as pa

    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, pa.RecordBatchReader):
        return data.read_all()
    if isinstance(data, pa.Table | list):
        return data
    if hasattr(data, "__arrow_c_stream__"):
        return pa.table(data)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        return iter(data)
    raise TypeError(f"rows are an Arrow table, a DataFrame, or dictionaries; got {type(data).__name__}")


def _token(rows: Any) -> str:
    import pyarrow as pa

    if isinstance(rows, pa.Table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows.combine_chunks())
        return hashlib.sha256(sink.getvalue()).hexdigest()[:32]
    if isinstance(rows, list):
        return hashlib.sha256(msgspec.json.encode(rows, enc_hook=str)).hexdigest()[:32]
    return uuid.uuid4().hex


def _batches(rows: Any) -> Iterator[tuple[Rows, bool]]:
    if not isinstance(rows, Iterator):
        for start in range(0, len(rows), BATCH_ROWS):
            cut = rows[start : start + BATCH_ROWS] if isinstance(rows, list) else rows.slice(start, BATCH_ROWS)
            yield cut, start + BATCH_ROWS >= len(rows)
        return
    held = list(islice(rows, BATCH_ROWS))
    while held:
        following = list(islice(rows, BATCH_ROWS))
        yield held, not following
        held = following


def _run(call: Coroutine[Any, Any, Loaded]) -> Loaded:
    """Runs a call to its end, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(call)
    found: list[Loaded | BaseException] = []

    def work() -> None:
        try:
            found.append(asyncio.run(call))
        except BaseException as exc:  # noqa: BLE001  # raised in the caller's thread
            found.append(exc)

    thread = threading.Thread(target=work, name="penstock-load")
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]
