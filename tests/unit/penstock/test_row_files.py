"""Files of rows: each format gives the same rows, cut the same way, and a broken file names its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from penstock.control.data import row_files
from penstock.control.data.row_files import RowFile, batches, fingerprint, format_of
from shared.errors import Permanent

ROWS = [{"id": number, "name": f"n°{number}", "price": number / 4} for number in range(1, 24)]


def write(folder: Path, format_: str) -> RowFile:
    table = pa.Table.from_pylist(ROWS)
    path = folder / f"rows.{format_}"
    if format_ in ("csv", "tsv"):
        mark = "," if format_ == "csv" else "\t"
        path.write_text(
            "\ufeff" + "\r\n".join(mark.join(map(str, row)) for row in [list(ROWS[0]), *(row.values() for row in ROWS)])
        )
    elif format_ == "ndjson":
        path.write_text("\n\n".join(map(json.dumps, ROWS)))
    elif format_ == "json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif format_ == "parquet":
        parquet.write_table(table, path, row_group_size=7)
    elif format_ == "arrow":
        with ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    else:
        with ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
    known = format_of(path)
    assert known is not None
    return RowFile(path, *known)


def read(file: RowFile) -> tuple[list[dict[str, Any]], list[int], list[bool]]:
    rows: list[dict[str, Any]] = []
    sizes, lasts = [], []
    for batch, last in batches(file):
        rows += batch if isinstance(batch, list) else batch.to_pylist()
        sizes.append(len(batch))
        lasts.append(last)
    return rows, sizes, lasts


@pytest.mark.parametrize("format_", ["csv", "tsv", "ndjson", "json", "parquet", "arrow", "arrows"])
def test_every_format_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str) -> None:
    monkeypatch.setattr(row_files, "BATCH_ROWS", 10)
    file = write(tmp_path, format_)
    rows, sizes, lasts = read(file)
    assert rows == ROWS
    assert lasts == [False] * (len(sizes) - 1) + [True]
    assert read(file)[1] == sizes, "a load that goes on meets the same batches"
    assert all(size <= 10 for size in sizes)


def test_a_compressed_file_has_the_same_rows_and_a_changed_one_another_token(tmp_path: Path) -> None:
    file = write(tmp_path, "ndjson")
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(file.path.read_bytes()))
    assert format_of(packed) == ("ndjson", True)
    assert read(RowFile(packed, "ndjson", compressed=True))[0] == ROWS
    before = fingerprint(file)
    assert before == fingerprint(file)
    file.path.write_text(file.path.read_text() + "{}")
    assert fingerprint(file) != before


def test_the_types_of_csv_hold_for_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "BATCH_ROWS", 10)
    path = tmp_path / "x.csv"
    path.write_text("a,b,c\n" + '1,true,"x,\n""y"\n' * 30 + "z,,\n")
    tables = [batch for batch, _ in batches(RowFile(path, "csv"))]
    assert {str(table.schema.field("a").type) for table in tables} == {"string"}  # type: ignore[union-attr]
    assert {str(table.schema.field("b").type) for table in tables} == {"bool"}  # type: ignore[union-attr]
    assert tables[0].to_pylist()[0] == {"a": "1", "b": True, "c": 'x,\n"y'}  # type: ignore[union-attr]
    bare = [batch.to_pylist() for batch, _ in batches(RowFile(path, "csv", header=False))]  # type: ignore[union-attr]
    assert bare[0][0] == {"column_1": "a", "column_2": "b", "column_3": "c"}


def test_numbers_of_json_keep_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "x.ndjson"
    path.write_text('{"a": 1}\n{"a": 0.12345678901234567890}\n{"a": 12345678901234567890}\n')
    rows, _, _ = read(RowFile(path, "ndjson"))
    assert [str(row["a"]) for row in rows] == ["1", "0.12345678901234567890", "12345678901234567890"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"a,a\n1,2\n", "columns of one name: a"),
        ("x.csv", b"a,b\n1,2\n3\n", "is no CSV"),
        ("x.csv", b"a\n\xff\xfe\n", "UTF-8"),
        ("x.ndjson", b'{"a":1}\n[1]\n', "line 2 is no JSON object"),
        ("x.ndjson", b'{"a":1}\n{"a":\n', "line 2 is no JSON object"),
        ("x.json", b"[1]", "no list of JSON objects"),
        ("x.parquet", b"PAR1 no", "no Parquet file"),
        ("x.arrow", b"ARROW1 no", "no Arrow file"),
        ("x.ndjson.gz", b"no gzip", "cannot be read"),
        ("x.ndjson.gz", gzip.compress(b'{"a":1}\n' * 1000, mtime=0)[:-20], "cannot be read"),
    ],
)
def test_a_broken_file_names_its_place(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    known = format_of(path)
    assert known is not None
    with pytest.raises(Permanent, match=words):
        read(RowFile(path, *known))
