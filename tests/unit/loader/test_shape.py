"""The shaper: frames, sequences, what tables have already, and the way back."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
import pytest

from loader.rows import shape
from loader.rows.shape import Shaper
from shared.errors import ConfigError, Permanent
from shared.events.frame import Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.outcome import DeadReason, DropReason
from shared.forget.ids import Forgotten, digest, listed
from shared.project.model import Connection
from tests.unit.loader.shaping import Desk, capabilities, frame_of, patched


def track(number: int) -> dict[str, Any]:
    return {"type": "track", "event": f"E{number % 2}", "properties": {"n": number}}


def test_frames_are_counted_and_their_order_is_the_order_of_rows() -> None:
    desk = Desk()
    for seq in (5, 6, 9):
        desk.shaper.add(frame_of([{"n": seq * 10 + each} for each in range(30)]), seq)
    assert (desk.shaper.events, desk.shaper.rows) == (90, 90)
    assert desk.shaper.body_bytes == sum(len(json.dumps({"n": seq * 10 + each})) for seq in (5, 6, 9) for each in range(30))
    batch = desk.shaper.take()
    assert (desk.shaper.events, desk.shaper.rows, desk.shaper.body_bytes) == (0, 0, 0)
    assert batch.tables["events"].sequences.tolist() == [seq * 65_536 + each for seq in (5, 6, 9) for each in range(30)]


def test_a_frame_is_shaped_alike_before_and_after_the_wire() -> None:
    frame = frame_of([track(number) for number in range(50)])
    one, two = Desk({"layout": "segment"}), Desk({"layout": "segment"})
    one.shaper.add(frame, 1)
    two.shaper.add(decode_frame(encode_frame(frame)), 1)
    first, second = (desk.fit(desk.shaper.take()) for desk in (one, two))
    assert first.patches == second.patches


def test_rows_a_table_has_already_are_left_out_of_that_table_only() -> None:
    desk = Desk({"layout": "segment"})
    marks = {"tracks": 10, "e0": 11}
    asked: list[str] = []

    def loaded(table: str) -> int:
        asked.append(table)
        return marks.get(table, -1)

    for seq in (10, 11, 12):
        desk.shaper.add(frame_of([track(seq * 10 + each) for each in range(4)]), seq, loaded)
    batch = desk.shaper.take()
    sequences = {name: sorted({int(value) >> 16 for value in table.sequences}) for name, table in batch.tables.items()}
    assert sequences == {"tracks": [11, 12], "e0": [12], "e1": [10, 11, 12]}
    assert sorted(asked) == sorted(["tracks", "e0", "e1"] * 3)


def test_columns_shared_by_the_rows_of_an_event_stand_in_the_right_rows() -> None:
    desk = Desk({"layout": "segment"})
    events: list[dict[str, Any]] = []
    for number in range(700):
        event = [track(number), {"type": "page"}, {"type": "identify", "userId": f"u{number}", "traits": {"n": number}}][
            number % 3
        ]
        context: dict[str, Any] = {"n": number} if number % 5 else {"n": str(number)}
        if number % 101 == 0:
            context["rare"] = number
        events.append({**event, "context": context})
    loaded = desk.load(*events)
    seen = 0
    for table, rows in loaded.tables.items():
        if table == "users":
            continue
        for row in rows:
            number = int(row["id"][1:])
            assert str(row["context_n"]) == str(number)
            assert row.get("context_rare") == (number if number % 101 == 0 else None)
            assert row.get("n") in (None, number)
            seen += 1
    assert seen == 700 + 234
    types = {table: type(rows[0]["context_n"]) for table, rows in loaded.tables.items() if table != "users"}
    assert types == {"tracks": str, "e0": str, "e1": str, "pages": str, "identifies": str}


def test_a_shared_column_is_typed_by_the_rows_of_each_table() -> None:
    desk = Desk({"layout": "segment"})
    loaded = desk.load(
        {"type": "page", "context": {"v": 1, "t": "2026-09-01T00:00:00Z"}}, {"type": "screen", "context": {"v": "x", "t": "soon"}}
    )
    assert loaded.column("context_v", "pages") == [1]
    assert loaded.column("context_v", "screens") == ["x"]
    assert loaded.column("context_t", "screens") == ["soon"]
    assert loaded.column("context_t", "pages")[0].year == 2026


def test_every_row_leads_back_to_the_bytes_of_its_event() -> None:
    desk = Desk({"layout": "segment"})
    frames = {seq: frame_of([track(seq * 100 + each) for each in range(25)]) for seq in (1, 2, 3)}
    for seq, frame in frames.items():
        desk.shaper.add(frame, seq)
    batch = desk.shaper.take()
    table = batch.tables["e1"]
    refused = {int(table.events[row]): (DeadReason.REJECTED_BY_DESTINATION, "their words") for row in (0, 20, 35)}
    letters = batch.dead_letters(refused)
    for letter, row in zip(letters, (0, 20, 35), strict=True):
        assert letter.seq * 65_536 + letter.index == int(table.sequences[row])
        assert letter.body == frames[letter.seq].bodies()[letter.index]
        assert letter.head == frames[letter.seq].heads[letter.index]
        assert letter.detail == "their words"


def test_a_frame_that_cannot_be_opened_adds_nothing() -> None:
    desk = Desk()
    good = frame_of([{"n": 1}])
    desk.shaper.add(good, 1)
    damaged = msgspec.structs.replace(good, sizes=[9999])
    with pytest.raises(Permanent):
        desk.shaper.add(damaged, 2)
    request = RequestContext(received_at=1, protocol="segment", key="k", defaults=b"{broken")
    with pytest.raises(Permanent):
        desk.shaper.add(pack("shop", [request], [Head("m", "track")], [b"{}"]), 3)
    assert desk.shaper.events == 1
    assert desk.shaper.take().rows == 1


def test_an_empty_batch_is_empty() -> None:
    desk = Desk({"layout": "segment"})
    batch = desk.shaper.take()
    assert (batch.rows, batch.events, dict(batch.tables), list(batch.dead)) == (0, 0, {}, [])
    fitted = desk.fit(batch)
    assert not fitted.patches
    assert not fitted.finish({}).ready


def test_a_frame_of_broken_events_only_is_all_dead_letters() -> None:
    loaded = Desk().load(b"x", b"y")
    assert [dead.index for dead in loaded.dead] == [0, 1]
    assert not loaded.tables


def test_a_template_that_does_not_compile_names_its_connection() -> None:
    connection = Connection(site="s", destination="d", table="{% if %}")
    with pytest.raises(ConfigError) as caught:
        Shaper("shop-wh", connection, capabilities(), "shop")
    assert caught.value.problems[0].path == "connections.shop-wh.table"


def test_what_the_server_knows_is_in_the_rows() -> None:
    desk = Desk()
    request = RequestContext(
        received_at=1_788_000_000_000_000, protocol="segment", key="k", ip="203.0.113.7", user_agent="UA", geo={"country": {"code": "DE"}}
    )  # fmt: skip
    desk.shaper.add(pack("shop", [request], [Head("m", "track")], [b'{"context":{"ip":"fake","locale":"de"}}']), 1)
    (patch,) = desk.fit(desk.shaper.take()).patches
    assert {"context_ip", "context_user_agent", "context_geo_country_code", "context_locale"} <= {
        column.name for column in patch.add
    }


def test_what_the_server_knows_of_a_request_is_in_the_rows_of_all_its_events() -> None:
    geo = {"country": {"code": "DE", "more": {"eu": True}}, "city": {"name": "Ulm"}}
    request = RequestContext(
        received_at=1, protocol="segment", key="k", geo=geo, agent={"name": "Firefox"},
        defaults=b'{"context":{"app":{"build":{"number":7}}},"integrations":{"All":{"x":1}}}',
    )  # fmt: skip
    for layout in ("passthrough", "segment"):
        desk = Desk({"layout": layout})
        desk.shaper.add(
            pack("shop", [request], [Head(f"m{each}", "identify") for each in range(30)], [b'{"userId":"u"}'] * 30), 1
        )
        batch = desk.shaper.take()
        fitted = desk.fit(batch)
        finished = fitted.finish({patch.table: patched(None, patch) for patch in fitted.patches})
        rows = finished.ready[0].load.rows
        for column, value in (
            ("context_geo_country_code", "DE"),
            ("context_geo_country_more_eu", True),
            ("context_geo_city_name", "Ulm"),
            ("context_agent_name", "Firefox"),
            ("context_app_build_number", 7),
        ):
            assert rows[column].to_pylist() == [value] * 30


def test_many_tables_are_forgotten_after_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "MOST_TABLES", 200)
    desk = Desk({"layout": "segment", "max_tables": 5_000})
    desk.shaper.add(frame_of([{"type": "track", "event": f"E {number}", "properties": {"n": 1}} for number in range(250)]), 1)
    full_before = desk.shaper.full
    batch = desk.shaper.take()
    assert len(batch.tables) == 251
    assert (full_before, desk.shaper.full) == (True, False)
    assert not desk.shaper._tables


@pytest.mark.parametrize("layout", ["segment", "single_table", "passthrough"])
def test_events_that_a_function_gave_have_rows_whatever_it_left_of_them(layout: str) -> None:
    given: list[dict[str, Any]] = [
        {"a": 1},
        {"context": None, "properties": "text", "traits": [1], "timestamp": 1_700_000_000},
        {"context": "text", "receivedAt": "never", "event": 5, "userId": 7, "type": "ignored"},
        {"context": [1], "receivedAt": "2026-03-01T12:00:00Z", "properties": None, "sentAt": {}},
    ]
    for kind in ("track", "identify", "page", "group", "other"):
        heads = [Head(f"m{number}", kind) for number in range(len(given))]
        request = RequestContext(received_at=0, protocol="segment", key="k", ip="198.51.100.1", complete=True)
        frame = pack("shop", [request], heads, [json.dumps(event).encode() for event in given])
        frame.trusted_hints, frame.taken = True, 3
        desk = Desk({"layout": layout})
        desk.shaper.add(frame, 1)
        batch = desk.shaper.take()
        fitted = desk.fit(batch)
        for patch in fitted.patches:
            desk.live[patch.table] = patched(desk.live.get(patch.table), patch)
        finished = fitted.finish(desk.live)
        assert not [*batch.dead, *finished.dead]
        ids = {row.get("message_id", row.get("id")) for ready in finished.ready for row in ready.load.rows.to_pylist()}
        assert {f"m{number}" for number in range(len(given))} <= ids
        assert "198.51.100.1" not in str([ready.load.rows.to_pylist() for ready in finished.ready])


def test_events_of_forgotten_people_get_no_rows_and_are_counted() -> None:
    salt, forgotten = bytes(32), Forgotten()
    forgotten.put(digest("jane", salt), listed("jane", salt, at=0.0, request=""))
    desk = Desk()
    desk.shaper = Shaper("shop-wh", desk.connection, desk.capabilities, "shop", forgotten=forgotten)
    frame = frame_of([{"n": number} for number in range(4)])
    for index in (0, 2):
        frame.heads[index] = msgspec.structs.replace(frame.heads[index], user_id="jane")
    desk.shaper.add(frame, 1, refused={0: "broken"}, ended=0b100)
    batch = desk.shaper.take()
    assert (batch.dropped, batch.rows, batch.events, batch.dead) == (Counter({DropReason.FORGOTTEN: 1}), 2, 3, [])
