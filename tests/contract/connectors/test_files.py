"""Files as a source: formats, packings, broken files, buckets and addresses, and where a read goes on in a large file."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import zstandard
from aiohttp import web
from pyarrow import parquet

from connector_runner import registry
from connector_runner.contract import Ended, Message, Row, Rows
from shared.errors import ConfigError, SetupError
from tests.support.file_rows import opened, whole
from tests.support.s3 import S3Server
from tests.support.sources.place import Reading, read, selected

ROWS = [{"id": number, "name": f"Größe, {number}"} for number in range(1, 6)]
CSV = "id,name\n" + "".join(f'{row["id"]},"{row["name"]}"\n' for row in ROWS)
NDJSON = "".join(f'{{"id": {row["id"]}, "name": "{row["name"]}"}}\n' for row in ROWS)


def as_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=2)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", CSV.encode(), {}),
        ("a.csv", b"\xef\xbb\xbf" + CSV.encode(), {}),
        ("a.csv.gz", gzip.compress(CSV[:30].encode()) + gzip.compress(CSV[30:].encode()), {}),
        ("a.csv.zst", zstandard.compress(CSV.encode()), {}),
        ("a.csv", CSV.replace("\n", "\r\n").encode("latin-1"), {"encoding": "latin-1"}),
        (
            "a.txt",
            CSV.replace('"', "'").replace(",", ";").replace("; ", ", ").encode(),
            {"format": "csv", "delimiter": ";", "quote": "'"},
        ),
        ("a.tsv", CSV.replace('"', "").replace(",", "\t").replace("\t ", ", ").encode(), {}),
        ("a.ndjson", NDJSON.encode(), {}),
        ("a.jsonl.gz", gzip.compress(b"\xef\xbb\xbf" + NDJSON.replace("\n", "\n\n").encode().rstrip()), {}),
        ("a.parquet", as_parquet(), {}),
    ],
)
async def test_every_format_gives_the_same_rows(name: str, content: bytes, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = await whole(await opened(tmp_path, {"s": {"files": "a.*", **options}}))
    assert found.rows() == ROWS
    assert found.complete == {"s"}


async def test_values_of_csv_are_what_the_stream_says(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('n,x,b,d,t,empty,quoted\n007,1.5,true,2026-01-02,2026-01-02T03:04:05Z,NULL,"NULL"\n')
    columns = {"n": "integer", "x": "number", "b": "boolean", "d": "date", "t": "timestamp"}
    stream = {"files": "*.csv", "columns": columns, "nulls": ["NULL"]}
    source = await opened(tmp_path, {"s": stream}, add=["file", "row", "modified_at"])
    os.utime(tmp_path / "a.csv", (1_767_225_600, 1_767_225_600))
    (row,) = (await whole(source)).rows()
    assert {key: str(value) for key, value in row.items()} == {
        "n": "7", "x": "1.5", "b": "True", "d": "2026-01-02", "t": "2026-01-02T03:04:05.000000Z", "empty": "None", "quoted": "NULL",
        "_file": "a.csv", "_row": "1", "_modified_at": "2026-01-01T00:00:00.000000Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words", "before"),
    [
        ("b.parquet", "PAR1", "b.parquet cannot be read", 0),
        ("b.csv.gz", "no gzip", "b.csv.gz cannot be read", 0),
        ("b.doc", "x", "b.doc: its ending says no format", 0),
    ],
)
async def test_a_broken_file_is_named_with_its_line_and_the_others_are_read(
    name: str, content: str, words: str, before: int, tmp_path: Path
) -> None:
    for number, (file, text) in enumerate([("a.csv", CSV), (name, content), ("c.csv", CSV)]):
        (tmp_path / file).write_text(text)
        os.utime(tmp_path / file, (number, number))
    source = await opened(tmp_path, {"s": {"files": "?.*", "columns": {"id": "integer"}}})
    (stream,) = await source.discover()
    got: list[Message] = []
    with pytest.raises(SetupError) as failed:
        async with aclosing(source.read([selected(stream)], {})) as messages:
            async for message in messages:
                got.append(message)  # noqa: PERF401  # those before an error count
    assert words in str(failed.value)
    assert len(Reading(got).rows()) == 10 + before
    assert [each.complete for each in got if isinstance(each, Ended)] == [False]
    (tmp_path / name).unlink()
    again = await read(source, [selected(stream)], Reading(got).states)
    assert again.rows() == [], "the others are done"
    await source.close()


@pytest.mark.parametrize("ending", ["csv", "ndjson", "parquet"])
async def test_a_large_file_is_read_in_parts_and_from_its_middle(ending: str, tmp_path: Path) -> None:
    count, note = 60_000, "x" * 100
    table = pa.table({"id": range(count), "note": [f"{number} {note}" for number in range(count)]})
    file = tmp_path / f"large.{ending}"
    if ending == "parquet":
        parquet.write_table(table, file, row_group_size=25_000)
    else:
        write: Callable[[int], str] = (lambda n: f"{n},{n} {note}\n") if ending == "csv" else (lambda n: f'{{"id": {n}}}\n')
        file.write_text(("id,note\n" if ending == "csv" else "") + "".join(map(write, range(count))))
    source = await opened(tmp_path, {"s": {"files": "large.*", "columns": {"id": "integer"}}})
    (stream,) = await source.discover()
    ids = (await read(source, [selected(stream)])).ids()
    assert ids == list(range(count))
    first = await read(source, [selected(stream, columns=(("id",),))], stop_after=4)
    second = await read(source, [selected(stream, columns=(("id",),))], first.states)
    assert set(first.ids()) | set(second.ids()) == set(range(count))
    assert 0 < len(second.ids()) < count
    assert set(second.rows()[0]) == {"id"}
    await source.close()


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    with (tmp_path / "large.csv").open("w") as file:
        file.write("id,note\n")
        for number in range(1000):
            file.write(f"{number},{'y' * 100_000}\n")
    source = await opened(tmp_path, {"s": {"files": "large.csv"}})
    (stream,) = await source.discover()
    before, most, rows = psutil.Process().memory_info().rss, 0, 0
    async with aclosing(source.read([selected(stream)], {})) as messages:
        async for message in messages:
            rows += len(getattr(message, "rows", None) or ()) if type(message).__name__ == "Rows" else 0
            del message
            most = max(most, psutil.Process().memory_info().rss)
    await source.close()
    assert rows == 1000
    assert most - before < 80 << 20, "the file has 100 MB"


async def test_a_file_that_changes_comes_again_whole_and_no_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.ndjson").write_text(f'{{"id": 1, "of": "{name}"}}\n')
    source = await opened(tmp_path, {"s": {"files": "*.ndjson"}})
    (stream,) = await source.discover()
    first = await read(source, [selected(stream)])
    (tmp_path / "b.ndjson").write_text('{"id": 1, "of": "b"}\n{"id": 12345678901234567890123, "of": "b"}\n')
    second = await read(source, [selected(stream)], first.states)
    assert [row["id"] for row in second.rows()] == [1, 12345678901234567890123]
    assert not (await read(source, [selected(stream)], second.states)).rows()
    await source.close()


async def test_objects_of_a_bucket_are_files_too(tmp_path: Path, s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="in/2026/a.csv.gz", Body=gzip.compress(CSV.encode()))
    client.put_object(Bucket=bucket, Key="in/other.txt", Body=b"x")
    options = {key: value for key, value in s3_server.document(bucket).items() if key != "type"}
    source = await opened(tmp_path, {"s": {"files": "in/**/*.csv.gz"}}, path=None, s3=options)
    assert (await source.check()).ok
    (stream,) = await source.discover()
    first = await read(source, [selected(stream)])
    assert first.rows() == ROWS
    assert not (await read(source, [selected(stream)], first.states)).rows()
    assert not list((tmp_path / "private").iterdir())
    await source.close()
    wrong = await opened(tmp_path, {"s": {"files": "*.csv"}}, path=None, s3={**options, "bucket": "gone-0123"})
    found = await wrong.check()
    assert not found.ok
    assert "gone-0123" in found.message
    await wrong.close()


async def test_addresses_are_files_too(tmp_path: Path) -> None:
    content, tag = [CSV], ['"1"']

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("X-Key") != "key-0123456":
            return web.Response(status=403)
        return web.Response(text=content[0], headers={"ETag": tag[0]})

    app = web.Application()
    app.router.add_get("/rates.csv", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        streams = {"s": {"files": f"http://127.0.0.1:{runner.addresses[0][1]}/rates.csv"}}
        source = await opened(tmp_path, streams, path=None, headers={"X-Key": "key-0123456"})
        (stream,) = await source.discover()
        first = await read(source, [selected(stream)])
        assert first.rows() == ROWS
        assert not (await read(source, [selected(stream)], first.states)).rows()
        content[0], tag[0] = CSV + "6,six\n", '"2"'
        assert len((await read(source, [selected(stream)], first.states)).rows()) == 6
        await source.close()
        refused = await (await opened(tmp_path, streams, path=None, headers={"X-Key": "wrong"})).check()
        assert not refused.ok
        assert "/rates.csv: the server answers 403 Forbidden; check `files` and `headers`" in refused.message
    finally:
        await runner.cleanup()


async def test_an_address_that_fails_keeps_no_other_stream_back(tmp_path: Path) -> None:
    """A signed address answers GET alone."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=CSV, headers={"ETag": '"1"'}) if request.method == "GET" else web.Response(status=403)

    app = web.Application()
    app.router.add_route("*", "/signed.csv", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        place = f"http://me:pw@127.0.0.1:{runner.addresses[0][1]}"
        source = await opened(
            tmp_path, {"gone": {"files": f"{place}/gone.csv?key=1"}, "s": {"files": f"{place}/signed.csv"}}, path=None
        )
        streams = await source.discover()
        assert [(each.name, bool(each.json_schema["properties"])) for each in streams] == [("gone", False), ("s", True)]
        got: list[Message] = []
        with pytest.raises(SetupError, match=r"http://127\.0\.0\.1:\d+/gone\.csv: the server answers 404") as failed:
            async for message in source.read([selected(each) for each in streams], {}):
                got.append(message)  # noqa: PERF401  # what came before the error counts
        assert "pw" not in str(failed.value)
        assert [(each.stream.name, each.complete) for each in got if isinstance(each, Ended)] == [("gone", False), ("s", True)]
        assert sum(len(each.rows) if isinstance(each, Rows) else 1 for each in got if isinstance(each, Rows | Row)) == len(ROWS)
        await source.close()
    finally:
        await runner.cleanup()


def test_a_relative_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="write an absolute path"):
        registry.parse_options("mine", {"type": "files", "path": "exports", "streams": {"s": {"files": "a.csv"}}})


def test_a_pattern_without_a_place_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"has the pattern 'a\.csv'; write `path` or `s3`"):
        registry.parse_options("mine", {"type": "files", "streams": {"s": {"files": "a.csv"}}})
