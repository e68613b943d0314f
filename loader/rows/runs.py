"""Runs: Python values of one type as Arrow arrays of one kind; values that cannot be stored are changed and counted.

Left out or changed, and counted in `notes`: NaN and infinity, which no SQL type of ours holds alike; NUL characters, which
Postgres refuses in text and in jsonb, become U+FFFD; times of an event have microseconds. Integers beyond 64 bits are a run of
decimals, and text beyond 38 digits. Numbers of which a double would lose digits are `Decimal`s (`shared/events/exact.py`). Arrays,
and objects kept whole, are compact JSON without hints (`loader/rows/hints.py`).

Pure.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loader.contract.warehouse import Kind
from loader.rows.hints import HINTS_LEFT_OUT, TABLE_KEY, TYPE_KEY, is_hint
from loader.rows.layouts.contract import Whole
from loader.types.lattice import ARROW, TIMESTAMP
from shared.events import exact
from shared.events.event import is_finer, read_time
from shared.events.rescue import NOT_FINITE

NUL_REPLACED = "nul_characters_replaced"
TIME_CUT = "times_cut_to_microseconds"

Rows = NDArray[np.int32]


def runs_of(type_: type, rows: Rows, values: list[Any], notes: Counter[str]) -> Iterator[tuple[Kind, Rows, pa.Array]]:
    """Returns values of one type, in `rows`, as one run or a few, none of them empty."""
    return (run for run in _RUNS[type_](rows, values, notes) if len(run[1]))


def times_of(type_: type, rows: Rows, values: list[Any], notes: Counter[str]) -> Iterator[tuple[Kind, Rows, pa.Array]]:
    """Returns runs as `runs_of` does, of an event's unread times; cuts times finer than microseconds, and counts them."""
    times = [read_time(value) if is_finer(value) else None for value in values]
    cut = np.array([time is not None for time in times], np.bool_)
    if cut.any():
        notes[TIME_CUT] += int(cut.sum())
        yield from runs_of(datetime, rows[cut], [time for time in times if time is not None], notes)
        rows, values = rows[~cut], [value for value, time in zip(values, times, strict=True) if time is None]
    if values:
        yield from runs_of(type_, rows, values, notes)


def text_run(values: list[Any]) -> pa.StringArray | None:
    """Returns values as text if all of them are texts without a NUL character; else None. Cheaper than a look at their types."""
    try:
        run = pa.array(values, type=_TEXT)
    except pa.ArrowTypeError:
        return None
    return None if run.null_count or _has_nul(run) else run


_TEXT = pa.string()
_since_epoch = datetime(1970, 1, 1, tzinfo=UTC).__rsub__  # type: ignore[attr-defined]  # the stubs know only __sub__
_Runs = Iterator[tuple[Kind, Rows, pa.Array]]
_encode = msgspec.json.Encoder(decimal_format="number").encode
_TYPE_MARK, _TABLE_MARK = TYPE_KEY.encode(), TABLE_KEY.encode()
_UNCLEAN = (b"\\u0000", _TYPE_MARK, _TABLE_MARK)
_NUL_ESCAPE = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


class _Written(NamedTuple):
    text: str


_COMMA, _END_OF_LIST, _END_OF_OBJECT = _Written(","), _Written("]"), _Written("}")


def _has_nul(run: pa.StringArray) -> bool:
    characters = run.buffers()[2]
    return characters is not None and b"\0" in characters.to_pybytes()


def _texts(rows: Rows, values: list[Any], notes: Counter[str]) -> _Runs:
    run = pa.array(values, type=_TEXT)
    if _has_nul(run):
        notes[NUL_REPLACED] += sum(text.count("\0") for text in values)
        run = pc.replace_substring(run, "\0", "\ufffd")
    yield Kind.TEXT, rows, run


def _booleans(rows: Rows, values: list[Any], _: Counter[str]) -> _Runs:
    yield Kind.BOOLEAN, rows, pa.array(values, type=pa.bool_())


def _moments(rows: Rows, values: list[Any], _: Counter[str]) -> _Runs:
    # a third of pa.array's time for aware datetimes
    since = pa.array(list(map(_since_epoch, values)), type=pa.duration("us"))
    yield Kind.TIMESTAMP, rows, since.cast(pa.int64()).cast(TIMESTAMP)


def _doubles(rows: Rows, values: list[Any], notes: Counter[str]) -> _Runs:
    numbers = np.array(values, dtype=np.float64)
    finite = np.isfinite(numbers)
    if not finite.all():
        notes[NOT_FINITE] += int(len(numbers) - finite.sum())
        rows, numbers = rows[finite], numbers[finite]
    yield Kind.DOUBLE, rows, pa.array(numbers)


def _integers(rows: Rows, values: list[Any], _: Counter[str]) -> _Runs:
    try:
        yield Kind.BIGINT, rows, pa.array(values, type=pa.int64())
        return
    except (OverflowError, pa.ArrowInvalid):
        pass
    chosen: dict[Kind, list[int]] = {Kind.BIGINT: [], Kind.DECIMAL: [], Kind.TEXT: []}
    for index, value in enumerate(values):
        small, fitting = -(2**63) <= value < 2**63, abs(value) < 10**38
        chosen[Kind.BIGINT if small else Kind.DECIMAL if fitting else Kind.TEXT].append(index)
    for kind, indexes in chosen.items():
        if indexes:
            numbers = [values[index] for index in indexes]
            run = pa.array([str(number) for number in numbers] if kind is Kind.TEXT else numbers, type=ARROW[kind])
            yield kind, rows[indexes], run


def _numbers(rows: Rows, values: list[Any], _: Counter[str]) -> _Runs:
    yield Kind.NUMBER, rows, pa.array(map(str, values), type=_TEXT)


def _documents(rows: Rows, values: list[Any], notes: Counter[str]) -> _Runs:
    texts = list(map(_document, values))
    run = pa.array(texts, type=pa.string())
    written = run.buffers()[2].to_pybytes()
    if any(mark in written for mark in _UNCLEAN):
        run = pa.array([_clean(text, notes) for text in texts], type=pa.string())
    yield Kind.JSON, rows, run


def _document(value: Any) -> bytes:
    """Returns an array or object as compact JSON."""
    if type(value) is Whole:
        value = value.value
    try:
        return _encode(value)
    except (OverflowError, RecursionError):  # msgspec writes no integer beyond 64 bits
        return _write(value)


def _write(value: Any) -> bytes:
    """Writes JSON without recursion: a value that could be decoded must not fail for its depth here, under a deeper stack."""
    pieces: list[str] = []
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is _Written:
            pieces.append(item.text)
        elif type(item) is Decimal:
            pieces.append(str(item))
        elif type(item) is list:
            pieces.append("[")
            waiting.append(_END_OF_LIST)
            for place in range(len(item) - 1, -1, -1):
                waiting.append(item[place])
                if place:
                    waiting.append(_COMMA)
        elif type(item) is dict:
            pieces.append("{")
            waiting.append(_END_OF_OBJECT)
            for place, key in enumerate(reversed(item), 1 - len(item)):
                waiting.append(item[key])
                waiting.append(_Written(("," if place else "") + json.dumps(key, ensure_ascii=False) + ":"))
        else:
            pieces.append(json.dumps(item, ensure_ascii=False))
    return "".join(pieces).encode()


def _clean(text: bytes, notes: Counter[str]) -> bytes:
    """Returns JSON text without hints and NUL characters."""
    if _TYPE_MARK in text or _TABLE_MARK in text:
        with suppress(RecursionError):  # deeper than any site allows: such a key stays in the text and does no harm
            value = json.loads(text, parse_float=exact.number)
            clean = _without_hints(value)
            if clean != value:
                notes[HINTS_LEFT_OUT] += 1
                text = _write(clean)
    text, count = _NUL_ESCAPE.subn(rb"\1\\ufffd", text)
    if count:
        notes[NUL_REPLACED] += count
    return text


def _without_hints(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_hints(item) for key, item in value.items() if not is_hint(key)}
    if isinstance(value, list):
        return [_without_hints(item) for item in value]
    return value


_RUNS: dict[type, Callable[[Rows, list[Any], Counter[str]], _Runs]] = {
    str: _texts,
    bool: _booleans,
    int: _integers,
    float: _doubles,
    Decimal: _numbers,
    datetime: _moments,
    list: _documents,
    dict: _documents,
    Whole: _documents,
}
