"""Lookups: what an event gets of a table, which texts find a row, and which tables are refused."""

from __future__ import annotations

import gzip
import json
import os
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from functions_runtime.definition import Definition
from functions_runtime.lookups import files
from functions_runtime.lookups.databases import read_database, statement
from functions_runtime.lookups.files import read_file
from functions_runtime.lookups.formats import parsed
from functions_runtime.lookups.source import Source
from functions_runtime.lookups.tables import Tables
from functions_runtime.rules.joining import Builder, Join, Table, key_text
from functions_runtime.rules.outcome import outcome_of
from functions_runtime.rules.packing import Prepared, finish, prepare
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate
from shared.errors import SetupError, Transient
from shared.events.dead import decode_dead
from shared.events.event import facts_of, materialise
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.events.headers import Place
from shared.events.outcome import Dead
from shared.project.functions import PrivacyRule
from shared.project.lookups import Lookup, LookupUse
from shared.project.model import Connection
from shared.reading.units import ByteSize
from shared.rules.privacy import compile_rules
from shared.settings import ServiceSettings
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

PRODUCTS = Lookup(file="products.csv", key="sku")


def table_of(*rows: dict[str, Any], lookup: Lookup = PRODUCTS) -> Table:
    builder = Builder(lookup, 'lookup "products"', list(rows[0]))
    for row in rows:
        builder.add(list(row.values()))
    return builder.made()


TABLE = table_of({"sku": "A-1", "name": "Apple", "price": Decimal("1.50")}, {"sku": 7, "name": "Pear", "price": None})


def join_of(table: Table = TABLE, **use: Any) -> Join:
    given = {"table": "products", "key": "properties.sku", "into": "properties.product", **use}
    return Join([LookupUse(**given)], {"products": table}, {"products": "sku"})


def joined(event: dict[str, Any], **use: Any) -> dict[str, Any]:
    join_of(**use)(event)
    return event


@pytest.mark.parametrize(
    ("value", "key"),
    [("00123", "00123"), (7, "7"), (7.0, "7"), (Decimal("7.0"), "7"), (1.5, "1.5"), (True, "true"), (None, None), ({}, None)],
)
def test_a_value_finds_the_row_of_its_text(value: object, key: str | None) -> None:
    assert key_text(value) == key


def test_an_event_gets_the_columns_of_its_row() -> None:
    event = {"properties": {"sku": "A-1", "product": {"seen": 2, "name": "a client's"}}}
    assert joined(event)["properties"]["product"] == {"seen": 2, "name": "Apple", "price": 1.5}
    assert joined({"properties": {"sku": 7.0}})["properties"] == {"sku": 7.0, "product": {"name": "Pear", "price": None}}
    renamed = joined({"properties": {"sku": "A-1"}}, columns={"price": "cost"}, into=["context", "a.b"])
    assert renamed == {"properties": {"sku": "A-1"}, "context": {"a.b": {"cost": 1.5}}}
    in_the_way = joined({"properties": {"sku": "A-1", "product": "text"}}, columns=["name"])
    assert in_the_way["properties"]["product"] == {"name": "Apple"}


def test_two_events_share_no_object() -> None:
    join = join_of(table_of({"sku": "A", "tags": ["x"]}))
    first, second = [dict[str, Any](properties={"sku": "A"}) for _ in range(2)]
    join(first)
    first["properties"]["product"]["tags"].append("y")
    join(second)
    assert second["properties"]["product"] == {"tags": ["x"]}


def test_an_event_without_a_row_follows_missing_and_one_without_a_key_stays() -> None:
    for key in ({}, {"sku": None}, {"sku": [1]}):
        for missing in ("leave_out", "null", "dead_letter"):
            assert joined({"properties": dict(key)}, missing=missing) == {"properties": key}
    assert joined({"properties": {"sku": "B"}}) == {"properties": {"sku": "B"}}
    nulls = joined({"properties": {"sku": "B"}}, missing="null")
    assert nulls["properties"]["product"] == {"name": None, "price": None}
    join = join_of(missing="dead_letter")
    found = join({"properties": {"sku": "B"}})
    assert isinstance(found, Dead)
    assert "lookup products has no row 'B' (properties.sku)" in found.detail
    assert join.missed == {"products": 1}


def frame_of(*bodies: dict[str, Any]) -> Frame:
    heads = [Head(f"m{number}", "track", "Order") for number in range(len(bodies))]
    request = RequestContext(1_767_225_600_000_000, "segment", "web")
    return pack("shop", [request], heads, [json.dumps(body).encode() for body in bodies])


def bodies_of(frame: Frame) -> list[dict[str, Any]]:
    facts = [facts_of(request) for request in frame.requests]
    return [materialise(body, head, facts[head.request]) for body, head in zip(frame.bodies(), frame.heads, strict=True)]


def prepared(frame: Frame, join: Join, *rules: PrivacyRule) -> Prepared:
    return prepare(frame, compile_rules(rules, lambda: b"n" * 12), join=join)


def test_in_a_frame_only_the_event_without_a_row_is_dead_and_its_bytes_are_kept_as_rules_leave_them() -> None:
    frame = frame_of({"properties": {"sku": "A-1"}}, {"properties": {"sku": "B", "mail": "a@b"}}, {"n": 1})
    hide = PrivacyRule(field="**.mail", do="drop")
    for rules in ((), (hide,)):
        made = prepared(frame, join_of(missing="dead_letter"), *rules)
        finished = finish(made, [Fate(wire.SAME)] * len(made.given))
        assert finished.frame.source_events == 3
        assert finished.frame.dead == {"lookup_missing": 1}
        assert [each.get("properties", {}).get("product") for each in bodies_of(finished.frame)] == [
            {"name": "Apple", "price": 1.5},
            None,
        ]
        outcome = outcome_of(
            made,
            finished,
            queue="c",
            connection="c",
            place=Place("l", 1, 3),
            headers={},
            failures=0,
            delay=lambda _: None,
            at=0.0,
        )
        (letter,) = decode_dead(outcome.letters)
        assert json.loads(letter.body)["properties"] == ({"sku": "B"} if rules else {"sku": "B", "mail": "a@b"})


def test_rules_change_what_a_lookup_adds_also_when_the_event_comes_again() -> None:
    people = table_of({"sku": "A", "mail": "a@b", "name": "Ann"})
    hide = PrivacyRule(field="**.mail", do="drop")
    for trusted in (False, True):
        frame = frame_of({"properties": {"sku": "A"}})
        frame.trusted_hints = trusted
        made = prepared(frame, join_of(people), hide)
        assert json.loads(made.given[0].body)["properties"]["product"] == {"name": "Ann"}


def test_the_last_row_of_a_key_counts_and_rows_without_one_are_counted() -> None:
    table = table_of({"sku": "A", "n": 1}, {"sku": None, "n": 2}, {"sku": "A", "n": 3})
    assert (table.find("A"), table.repeated, table.without_key) == ({"sku": "A", "n": 3}, 1, 1)


def test_a_table_beyond_its_bounds_or_without_a_column_is_refused() -> None:
    with pytest.raises(SetupError, match="more than 1 rows; raise `max_rows`"):
        table_of({"sku": "A"}, {"sku": "B"}, lookup=Lookup(file="x.csv", key="sku", max_rows=1))
    with pytest.raises(SetupError, match="more than 2048 bytes of memory; raise `max_bytes`"):
        table_of({"sku": "A", "t": "x" * 3000}, lookup=Lookup(file="x.csv", key="sku", max_bytes=ByteSize(2048)))
    of_database = Lookup(destination="wh", table="t", key="sku")
    with pytest.raises(SetupError, match="no column 'sku'; it has id, n"):
        table_of({"id": "A", "n": 1}, lookup=of_database)
    with pytest.raises(SetupError, match="no column 'cost'; it has: sku, name, price"):
        join_of(columns=["cost"])


def written(folder: Path, name: str, text: str | bytes) -> Lookup:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Lookup(file=str(path), key="sku")


CSV = '\ufeffsku,n,price,zip,ok,note\r\n007,1,1.5,01234,true,\r\nB,2,2,99999,false,"a, b"\r\n'
ROWS = {
    "007": {"sku": "007", "n": 1, "price": 1.5, "zip": "01234", "ok": True, "note": None},
    "B": {"sku": "B", "n": 2, "price": 2, "zip": "99999", "ok": False, "note": "a, b"},
}


@pytest.mark.parametrize("form", ["csv", "tsv", "csv.gz", "ndjson", "parquet"])
async def test_files_of_every_format_give_the_same_rows(form: str, tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS.values())
    texts: dict[str, str | bytes] = {
        "csv": CSV,
        "tsv": CSV.replace('"a, b"', "a; b").replace(",", "\t").replace(";", ","),
        "csv.gz": gzip.compress(CSV.encode()),
        "ndjson": lines,
    }
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(list(ROWS.values())), tmp_path / "t.parquet")
        texts[form] = (tmp_path / "t.parquet").read_bytes()
    lookup = written(tmp_path, f"t.{form}", texts[form])
    table, version = await read_file(lookup, "products", "")
    assert table is not None
    assert {key: table.find(key) for key in table.rows} == ROWS
    assert await read_file(lookup, "products", version) == (None, version), "a file that did not change is not read again"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "sku,n\nA\n", "line 2 has 1 fields, and the first line has 2"),
        ("t.csv", "", "the file is empty"),
        ("t.csv", b"sku\n\xff\n", "the file is no csv"),
        ("t.csv.gz", b"sku\nA\n", "cannot be read"),
        ("t.ndjson", '{"sku": 1}\n[2]\n', "line 2 is no JSON object"),
        ("t.parquet", b"PAR1 not", "no Parquet"),
    ],
)
async def test_a_file_that_is_not_what_it_says_is_refused_with_its_place(
    name: str, text: str | bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match=words):
        await read_file(written(tmp_path, name, text), "products", "")


async def test_a_file_that_is_away_too_large_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        await read_file(Lookup(file=str(tmp_path / "no.csv"), key="sku"), "products", "")
    lookup = written(tmp_path, "t.csv", CSV)
    small = Lookup(file=lookup.file, key="sku", max_bytes=ByteSize(20))
    with pytest.raises(SetupError, match="more than 20 bytes; raise `max_bytes`"):
        await read_file(small, "products", "")
    os.mkfifo(tmp_path / "pipe.csv")  # nobody writes: its reading would never end
    for name in ("pipe.csv", "folder.csv"):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        with pytest.raises(SetupError, match="is no file"):
            await read_file(Lookup(file=str(tmp_path / name), key="sku"), "products", "")


@pytest.mark.parametrize("text", ["sku,price\nB,2\n", "sku,price\nbroken\n"])
async def test_a_file_replaced_while_it_is_read_is_whole_and_one_written_to_is_none(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup, aside = written(tmp_path, "t.csv", "sku,price\nA,1\n"), written(tmp_path, "aside.csv", "sku,price\nNEW,9\n")
    path, written_to = Path(lookup.file or ""), []

    def replaced(*given: Any) -> Table:
        Path(aside.file or "").rename(path)
        return parsed(*given)

    def changed(*given: Any) -> Table:
        written_to.append(path.write_text(text))
        return parsed(*given)

    monkeypatch.setattr(files, "parsed", replaced)
    table, version = await read_file(lookup, "products", "")
    assert table is not None
    assert list(table.rows) == ["A"]
    monkeypatch.setattr(files, "parsed", changed)
    with pytest.raises(Transient, match="changed while it was read; write it aside"):
        await read_file(lookup, "products", version)
    assert written_to, "the new file has a version of its own"


def test_names_of_tables_stand_in_quotes() -> None:
    asked = Lookup(destination="wh", table='shop.pro"ducts', key="sku", columns=["price"])
    assert statement(asked) == 'SELECT "sku", "price" FROM "shop"."pro""ducts"'
    assert statement(Lookup(destination="wh", table="t", key="k"), "main") == 'SELECT * FROM "main"."t"'
    assert statement(Lookup(destination="wh", query="SELECT 1;\n ", key="k")) == "SELECT 1"
    hostile = Lookup(destination="wh", table='t\\" FINAL', key="k")
    assert statement(hostile, escapes=True) == 'SELECT * FROM "t\\\\"" FINAL"', "ClickHouse reads escapes in names"
    assert statement(Lookup(destination="wh", table="a\\b", key="k"), quote="`") == "SELECT * FROM `a\\b`", "MySQL reads none"


def test_numbers_inside_of_arrays_and_objects_can_be_read_again() -> None:
    values = [Decimal("1E+400"), (Decimal("NaN"), {Decimal("1.5"): Decimal("0.5")})]
    found = table_of({"sku": "A", "v": values}).find("A")
    assert found == {"sku": "A", "v": ["1E+400", [None, {"1.5": 0.5}]]}


def test_a_dead_letter_tells_no_key_where_rules_run() -> None:
    frame = frame_of({"properties": {"sku": "ann@example.com"}})
    hide = PrivacyRule(field="properties.sku", do="drop")
    dead = prepared(frame, join_of(missing="dead_letter"), hide).dead[0]
    assert dead.detail == "lookup products has no row for its key (properties.sku)"


async def test_a_line_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"sku" + b"," * (5 << 20))
    with pytest.raises(SetupError, match="a line has more than"):
        await read_file(written(tmp_path, "t.csv.gz", packed), "products", "")


async def test_headers_and_requests_go_to_the_host_that_is_written() -> None:
    seen: list[tuple[str, str | None]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("X-Key")))
        if request.path == "/here":
            raise web.HTTPFound("/t.csv")
        if request.path == "/away":
            raise web.HTTPTemporaryRedirect(f"http://127.0.0.1:{other.port}/t.csv")
        return web.Response(text="sku\nA\n")

    def app() -> web.Application:
        made = web.Application()
        made.router.add_route("*", "/{path}", answer)
        return made

    async with TestServer(app()) as server, TestServer(app()) as other:
        at = f"http://127.0.0.1:{server.port}"
        lookup = Lookup(file=f"{at}/here", format="csv", key="sku", headers={"X-Key": "secret"})
        table, _ = await read_file(lookup, "products", "")
        assert table is not None
        assert table.find("A") == {"sku": "A"}
        assert seen == [("/here", "secret"), ("/t.csv", "secret")]
        seen.clear()
        with pytest.raises(SetupError, match="is no address of the internet; write the final address"):
            await read_file(Lookup(file=f"{at}/away", format="csv", key="sku"), "products", "")
        place = {"type": "clickhouse", "url": f"{at}/away", "password": "secret"}
        with pytest.raises(SetupError):
            await read_database(Lookup(destination="wh", table="t", key="sku"), place, "products")
        assert [path for path, _ in seen] == ["/away", "/away"]


async def test_a_table_that_nobody_uses_any_more_shows_no_failure(tmp_path: Path) -> None:
    telemetry = Telemetry("test", ServiceSettings())
    context: Any = SimpleNamespace(health=Health(), telemetry=telemetry)
    tables, source = Tables(context), Source("products", Lookup(file=str(tmp_path / "no.csv"), key="sku"), {})
    use = LookupUse(table="products", key="sku", into="product")
    wanted = Definition("c", "c", Connection(site="s", destination="w", lookups=[use]), (), "duckdb", {"products": source})
    with pytest.raises(SetupError, match="No such file"):
        await tables.join("c", wanted)
    assert b'functions_lookup_failing{table="products"} 1' in telemetry.exposition()
    tables.leave("c")
    assert b"functions_lookup_failing{" not in telemetry.exposition()
    await tables.close()
    telemetry.shutdown()
