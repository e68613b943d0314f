"""CSV as people write it: types, delimiters, codings, headers, and rows that do not fit, around which nothing is lost."""

from __future__ import annotations

import gzip
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import zstandard

from connector_runner.contract import Checkpoint, Row, Said
from connector_runner.sources.files import delimited
from shared.errors import SetupError
from tests.support.file_rows import opened, whole
from tests.support.sources.place import Reading, read, selected


def good(reading: Reading) -> list[Any]:
    """Returns the rows that can be read."""
    return [row for row in reading.rows() if isinstance(row, dict)]


def bad(reading: Reading) -> list[str]:
    """Returns what is said of the others."""
    return [json.loads(each.data) for each in reading.messages if isinstance(each, Row) and each.data.startswith(b'"')]


async def read_text(folder: Path, text: str | bytes, name: str = "a.csv", add: tuple[str, ...] = (), **stream: Any) -> Reading:
    """Reads one file."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return await whole(await opened(folder, {"s": {"files": "a.*", **stream}}, add=list(add)))


async def test_a_type_is_what_all_values_of_a_column_are(tmp_path: Path) -> None:
    text = "i,n,b,zip,mixed,none,at,big\n1,1.5,true,00501,1,,2026-01-02,9223372036854775807\n-2,2,FALSE,10115,x,,2026-01-03,1\n"
    found = await read_text(tmp_path, text)
    assert [{key: str(value) for key, value in row.items()} for row in found.rows()] == [
        {
            "i": "1",
            "n": "1.5",
            "b": "True",
            "zip": "00501",
            "mixed": "1",
            "none": "None",
            "at": "2026-01-02",
            "big": "9223372036854775807",
        },
        {"i": "-2", "n": "2.0", "b": "False", "zip": "10115", "mixed": "x", "none": "None", "at": "2026-01-03", "big": "1"},
    ]
    kinds = {type(row["i"]) for row in found.rows()} | {type(row["mixed"]) for row in found.rows()}
    assert kinds == {int, str}
    (stream,) = await (await opened(tmp_path, {"s": {"files": "a.*"}})).discover()
    told = {name: each["type"] for name, each in stream.json_schema["properties"].items()}
    assert (told["i"], told["n"], told["b"], told["zip"]) == ("integer", "number", "boolean", "string")
    assert all(type(row["i"]) is str for row in (await read_text(tmp_path, text, types="text")).rows())


async def test_a_type_holds_for_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 200)
    rows = [f"{number},{number}" for number in range(100)]
    found = await read_text(tmp_path, "a,b\n" + "\n".join(rows) + "\nlast,100\n")
    assert {type(row["a"]) for row in found.rows()} == {str}
    assert [row["b"] for row in found.rows()] == list(range(101))


@pytest.mark.parametrize(
    ("text", "stream", "rows"),
    [
        ("id;t\n1;a,b\n", {}, [{"id": 1, "t": "a,b"}]),
        ("id\tt\n1\ta\n", {}, [{"id": 1, "t": "a"}]),
        ("id|t\n1|a\n", {}, [{"id": 1, "t": "a"}]),
        ('"a;b;c",t\n1,x\n', {}, [{"a;b;c": 1, "t": "x"}]),
        ("id\n1\n\n2\n", {}, [{"id": 1}, {"id": 2}]),
        ("\ufeffid,t\n1,a\n", {}, [{"id": 1, "t": "a"}]),
        ("id,t\n1,ä\n".encode("utf-16"), {}, [{"id": 1, "t": "ä"}]),
        ("id,t\n1,ä\n".encode("cp1252"), {"encoding": "cp1252"}, [{"id": 1, "t": "ä"}]),
        ("id,id, name ,,id_2\n1,2,x,y,z\n", {}, [{"id": 1, "id_3": 2, "name": "x", "column_4": "y", "id_2": "z"}]),
        ("1,a\n2,b\n", {"header": False}, [{"column_1": 1, "column_2": "a"}, {"column_1": 2, "column_2": "b"}]),
        ("made by: x\n\nid,t\n1,a\n", {"skip_lines": 2}, [{"id": 1, "t": "a"}]),
        ('id,t\n1,"a\nb"\n2,"say ""x"""\n', {}, [{"id": 1, "t": "a\nb"}, {"id": 2, "t": 'say "x"'}]),
        ('id,t\n1,"say \\"x\\""\n', {"escape": "\\"}, [{"id": 1, "t": 'say "x"'}]),
        ("id,t\r\n1,a\r\n", {}, [{"id": 1, "t": "a"}]),
        ("id,t\n", {}, []),
        ("", {}, []),
        ("id,t\n1,a", {}, [{"id": 1, "t": "a"}]),
    ],
)  # fmt: skip
async def test_files_as_people_write_them(tmp_path: Path, text: str | bytes, stream: dict[str, Any], rows: Any) -> None:
    found = await read_text(tmp_path, text, **stream)
    assert found.rows() == rows
    assert found.complete == {"s"}


@pytest.mark.parametrize(
    "pack", [lambda data: data, gzip.compress, lambda data: zstandard.compress(data[:30]) + zstandard.compress(data[30:])]
)
async def test_rows_that_do_not_fit_are_told_and_those_around_them_come(tmp_path: Path, pack: Any) -> None:
    text = b"id,name,on\n1,a,2026-01-01\n2,b\n3,c,2026-01-03,x\n4,d,soon\n5,\xff,2026-01-05\n6\xff\n7,g,2026-01-07\n8\n"
    packed = pack(text)
    name = "a.csv" if packed == text else "a.csv.gz" if packed[:2] == b"\x1f\x8b" else "a.csv.zst"
    found = await read_text(tmp_path, packed, name, add=("row",), columns={"on": "date"})
    assert [(row["id"], row["_row"]) for row in good(found)] == [(1, 1), (7, 7)]
    assert [each.replace("\ufffd", "?") for each in bad(found)] == [
        f"{name} row 3 has 2 values and not 3: 2,b",
        f"{name} row 4 has 4 values and not 3: 3,c,2026-01-03,x",
        f"{name} row 5 on is 'soon' and not a date: 4,d,soon",
        f"{name} row 6 name has bytes that are no UTF-8; write `encoding`, such as latin-1: 5,?,2026-01-05",
        f"{name} row 7 has 1 values and not 3: 6?",
        f"{name} row 9 has 1 values and not 3: 8",
    ]
    assert found.complete == {"s"}
    said = [each.text for each in found.messages if isinstance(each, Said)]
    assert said == [f"6 rows of {name} cannot be read and become dead letters; the first: {bad(found)[0]}"]
    counted = [each.rows for each in found.messages if isinstance(each, Checkpoint)]
    assert sum(filter(None, counted)) == 8


async def test_lines_that_are_no_json_are_told_and_those_around_them_come(tmp_path: Path) -> None:
    found = await read_text(tmp_path, b'{"id": 1}\n{"id": 2\n\n[3]\n{"id": 4}', "a.ndjson")
    assert [row["id"] for row in good(found)] == [1, 4]
    assert [each.partition(" (")[0] for each in bad(found)] == [
        "a.ndjson row 2 is no JSON object",
        "a.ndjson row 4 is no JSON object",
    ]


@pytest.mark.parametrize("ending", ["csv", "ndjson"])
async def test_a_read_goes_on_behind_rows_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 100)
    monkeypatch.setattr("connector_runner.sources.files.formats.PART_BYTES", 100)
    wrong = {7, 8, 30, 31, 32, 33, 60, 80}
    lines = [
        ("x" if ending == "csv" else "{") if number in wrong else f"{number},a" if ending == "csv" else f'{{"id": {number}}}'
        for number in range(1, 81)
    ]
    (tmp_path / f"a.{ending}").write_text("\n".join((["id,t"] if ending == "csv" else []) + lines) + "\n")
    source = await opened(tmp_path, {"s": {"files": "a.*"}}, add=["row"])
    (stream,) = await source.discover()
    messages: list[Any] = []
    async with aclosing(source.read([selected(stream)], {})) as found:
        async for message in found:
            messages.append(message)  # noqa: PERF401  # reads them one by one
    assert sum(isinstance(each, Checkpoint) for each in messages) > 5
    for place in range(len(messages) + 1):
        first = Reading(messages[:place])
        rest = await read(source, [selected(stream)], first.states)
        assert {row["id"] for row in [*good(first), *good(rest)]} == set(range(1, 81)) - wrong, place
        assert len({*bad(first), *bad(rest)}) == len(wrong), place
        assert all(row["id"] == row["_row"] for row in [*good(first), *good(rest)])
    await source.close()


async def test_a_row_longer_than_a_block_is_read_and_an_open_quote_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 100)
    text = "".join(f"{number},{'y' * (300 if number == 20 else 5)}\n" for number in range(40))
    assert [row["id"] for row in (await read_text(tmp_path, "id,t\n" + text)).rows()] == list(range(40))
    found = await read_text(tmp_path, 'id,t\n1,a\n2,"open\n3,c\n')
    assert [row["id"] for row in good(found)] == [1]
    assert (
        bad(found) == ['a.csv row 3 has 1 values and not 2; a quote in it may not be closed: 2,"open\n3,c']
        or len(bad(found)) == 1
    )


@pytest.mark.parametrize("ending", ["csv", "ndjson"])
async def test_all_rows_before_a_break_come_and_none_comes_again(tmp_path: Path, ending: str) -> None:
    row = b"%d,%d\n" if ending == "csv" else b'{"id": %d, "t": %d}\n'
    text = b"".join(row % (number, number * 7919 % 10007) for number in range(300_000))
    (tmp_path / f"a.{ending}.gz").write_bytes(gzip.compress((b"id,t\n" if ending == "csv" else b"") + text, 1)[:-2000])
    source = await opened(tmp_path, {"s": {"files": "a.*", "primary_key": ["id"]}})
    (stream,) = await source.discover()
    states: dict[Any, bytes] = {}
    ids: list[int] = []
    for _ in range(2):
        with pytest.raises(SetupError, match=f"a.{ending}.gz cannot be read"):
            async with aclosing(source.read([selected(stream)], states)) as found:
                async for message in found:
                    ids += Reading([message]).ids()
                    if isinstance(message, Checkpoint):
                        states[message.stream] = message.state
    # Arrow gives what it unpacks in blocks; the last ones before the break are not given
    assert len(ids) > 280_000
    assert ids == list(range(len(ids)))
    await source.close()


async def test_a_file_that_grows_or_is_replaced_comes_whole_with_the_types_that_it_has_then(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,n\n1,1\n")
    source = await opened(tmp_path, {"s": {"files": "*.csv"}})
    (stream,) = await source.discover()
    first = await read(source, [selected(stream)])
    with file.open("a") as more:
        more.write("2,x\n")
    second = await read(source, [selected(stream)], first.states)
    assert second.rows() == [{"id": 1, "n": "1"}, {"id": 2, "n": "x"}]
    (tmp_path / "new").write_text("id,m\n3,1\n")
    (tmp_path / "new").rename(file)
    third = await read(source, [selected(stream)], second.states)
    assert third.rows() == [{"id": 3, "m": 1}]
    assert not (await read(source, [selected(stream)], third.states)).rows()
    await source.close()
