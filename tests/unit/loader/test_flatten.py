"""Objects become columns: what is there, what is left out, what hostile events do."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from loader.contract.warehouse import Kind
from loader.rows import shape
from loader.rows.columns import MAX_DEPTH, MAX_SHAPES, WINDOW_ROWS
from loader.rows.runs import NUL_REPLACED, TIME_CUT
from shared.events.rescue import NOT_FINITE, SURROGATE_REPLACED
from tests.unit.loader.shaping import RECEIVED, Desk, Loaded, Row, frame_of, kinds_of


def flat(*events: dict[str, Any] | bytes) -> tuple[list[Row], Loaded]:
    loaded = Desk().load(*events)
    system = {"message_id", "type", "received_at", "timestamp"}
    return [{key: value for key, value in row.items() if key not in system} for row in loaded.rows()], loaded


def test_nested_objects_are_joined_and_arrays_are_compact_json_text() -> None:
    rows, _ = flat({"a": {"b": {"c": 1}, "d": "x"}, "list": [1, {"k": "é"}, None]})
    assert rows == [{"a_b_c": 1, "a_d": "x", "list": '[1,{"k":"é"},null]'}]


def test_nulls_and_empty_objects_make_no_column_but_empty_text_and_arrays_do() -> None:
    rows, loaded = flat({"n": None, "o": {}, "deep": {"n": None, "o": {"p": {}}}, "s": "", "l": [], "z": 0, "f": False})
    assert rows == [{"s": "", "l": "[]", "z": 0, "f": False}]
    assert not {"n", "o", "deep_n", "deep_o"} & set(loaded.tables["events"][0])


def test_sparse_columns_stand_in_their_rows() -> None:
    events = [{f"k{number % 7}": number} for number in range(100)]
    _, loaded = flat(*events)
    for column in range(7):
        assert loaded.column(f"k{column}") == [number if number % 7 == column else None for number in range(100)]


@pytest.mark.parametrize("count", [1, WINDOW_ROWS - 1, WINDOW_ROWS, WINDOW_ROWS + 1, 2 * WINDOW_ROWS + 3])
def test_rows_keep_their_order_across_windows(count: int) -> None:
    events = [{"n": number, "nested": {"even" if number % 2 == 0 else "odd": number}} for number in range(count)]
    _, loaded = flat(*events)
    assert loaded.column("n") == list(range(count))
    assert loaded.column("nested_even") == [number if number % 2 == 0 else None for number in range(count)]


def test_one_key_may_be_an_object_here_and_a_value_there() -> None:
    events: list[dict[str, Any]] = [{"a": 1}, {"a": {"b": 2}}, {"a": None}, {"a": [3]}, {"a": {"b": {"c": 4}}}, {"a": {}}]
    rows, _ = flat(*events * 30)
    assert rows == [{"a": "1"}, {"a_b": 2}, {}, {"a": "[3]"}, {"a_b_c": 4}, {}] * 30


def test_one_shape_may_turn_a_value_into_an_object_late() -> None:
    events: list[dict[str, Any]] = [{"a": 1, "b": 1} for _ in range(50)] + [{"a": {"x": 2}, "b": 1} for _ in range(50)]
    rows, _ = flat(*events)
    assert rows == [{"a": 1, "b": 1}] * 50 + [{"a_x": 2, "b": 1}] * 50


def test_more_shapes_than_are_remembered_change_nothing() -> None:
    events = [{f"k{each}": number for each in range(10) if number >> each & 1} | {"n": number} for number in range(1024)]
    _, loaded = flat(*events)
    assert len(events) > MAX_SHAPES
    assert loaded.column("n") == list(range(1024))
    for each in range(10):
        assert loaded.column(f"k{each}") == [number if number >> each & 1 else None for number in range(1024)]


def test_the_builder_is_reused_for_the_next_batch_and_keeps_nothing_of_the_last() -> None:
    desk = Desk()
    desk.load({"a": 1, "only_first": {"x": 1}})
    second = desk.load({"a": 2, "only_second": True}, {"a": 3})
    assert [row["a"] for row in second.rows()] == [2, 3]
    assert "only_first_x" not in second.tables["events"][0]


def test_thousands_of_keys_in_one_event_are_columns_up_to_the_limit_and_no_value_is_lost() -> None:
    desk = Desk({"max_columns": 200, "max_new_columns": 10_000})
    event = {f"key {number}": number for number in range(3_000)}
    loaded = desk.load(event, {"key 1": 5})
    row = loaded.tables["events"][0]
    columns = {name: value for name, value in row.items() if name.startswith("key_") and value is not None}
    unmapped = loaded.unmapped()[0]
    assert len(kinds_of(desk.live["events"])) == 201
    assert columns | unmapped == {f"key_{number}": number for number in range(3_000)}
    assert not set(columns) & set(unmapped)


def test_events_made_to_be_unlike_each_other_fill_the_shaper_and_are_forgotten_after_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shape, "MOST_PATHS", 500)
    desk = Desk()
    for number in range(5):
        desk.seq += 1
        desk.shaper.add(frame_of([{f"k{number}_{each}": {f"n{each}": 1} for each in range(50)}]), desk.seq)
    full_before = desk.shaper.full
    assert desk.shaper.take().rows == 5
    assert (full_before, desk.shaper.full) == (True, False)
    assert desk.shaper._paths() == 0


@pytest.mark.parametrize("depth", [10, 200, MAX_DEPTH + 1, 600])
def test_deep_nesting_is_flattened_to_a_bound_and_kept_as_json_below(depth: int) -> None:
    body = b'{"a":' * depth + b"1" + b"}" * depth
    rows, loaded = flat(body, {"n": 1})
    assert not loaded.dead
    (value,) = rows[0].values()
    assert value == (
        1
        if depth <= MAX_DEPTH + 1
        else json.dumps(
            json.loads(b'{"a":' * (depth - MAX_DEPTH - 1) + b"1" + b"}" * (depth - MAX_DEPTH - 1)), separators=(",", ":")
        )
    )
    assert rows[1] == {"n": 1}


def test_nesting_no_decoder_can_follow_is_a_dead_letter() -> None:
    loaded = Desk().load(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, {"n": 1})
    assert [dead.reason for dead in loaded.dead] == ["too_deep"]
    assert len(loaded.rows()) == 1


def test_integers_beyond_64_bits_are_never_rounded() -> None:
    rows, loaded = flat({"n": 1, "t": 5}, {"n": 2**63, "t": 10**40}, {"n": -(10**37), "t": -(10**38)})
    assert [row["n"] for row in rows] == [Decimal(1), Decimal(2**63), Decimal(-(10**37))]
    assert [row["t"] for row in rows] == ["5", str(10**40), str(-(10**38))]
    assert _kind(loaded, "n") is Kind.DECIMAL
    assert _kind(loaded, "t") is Kind.TEXT


def _kind(loaded: Loaded, column: str) -> Kind:
    (patch,) = loaded.fitted.patches
    return next(added.kind for added in patch.add if added.name == column)


def test_an_integer_of_thousands_of_digits_is_kept_as_text() -> None:
    rows, _ = flat(b'{"n":' + b"9" * 5000 + b"}")
    assert rows == [{"n": "9" * 5000}]


def test_arrays_keep_integers_beyond_64_bits() -> None:
    rows, _ = flat({"l": [2**70, {"a": 2**64}]})
    assert rows == [{"l": '[1180591620717411303424,{"a":18446744073709551616}]'}]


def test_what_is_no_number_becomes_null_and_is_counted() -> None:
    rows, loaded = flat(b'{"a":NaN,"b":1e999}', b'{"a":-Infinity,"b":2,"c":[NaN]}', {"a": 2.5})
    assert rows == [{"b": "1E+999"}, {"b": "2", "c": "[null]"}, {"a": 2.5}]
    assert loaded.batch.notes[NOT_FINITE] == 3


@pytest.mark.parametrize("sent", ["2026-03-01T12:00:00.123456789Z", 1772366400123456789, "1772366400123456789"])
def test_the_events_own_time_is_cut_to_microseconds_and_counted(sent: Any) -> None:
    loaded = Desk().load({"timestamp": sent, "v": sent}, {"timestamp": "2026-03-01T12:00:00.123456Z"}, {"timestamp": "soon"})
    moment = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
    assert loaded.column("original_timestamp") == [moment, moment, None]
    assert loaded.column("timestamp") == [moment, moment, RECEIVED]
    assert loaded.column("v")[0] == sent
    assert loaded.batch.notes[TIME_CUT] == 1
    assert loaded.unmapped() == [None, None, {"original_timestamp": "soon"}]


def test_nul_characters_are_replaced_and_counted_wherever_they_stand() -> None:
    rows, loaded = flat({"a": "x\0y\0", "l": ["\0", {"k\0": "v"}], "key\0": "z"}, {"a": "clean", "l": ["\\u0000"]})
    assert rows == [
        {"a": "x\ufffdy\ufffd", "l": '["\\ufffd",{"k\\ufffd":"v"}]', "key_": "z"},
        {"a": "clean", "l": '["\\\\u0000"]'},
    ]
    assert loaded.batch.notes[NUL_REPLACED] == 4


def test_arrays_as_deep_as_any_decoder_follows_are_kept() -> None:
    for depth in (150, 700, 900):
        body = b'{"l":' + b"[" * depth + b'"\\u0000"' + b"]" * depth + b',"m":[' + b'{"k":' * depth + b"1" + b"}" * depth + b"]}"
        rows, loaded = flat(body, {"n": 1})
        assert rows == (
            [{"n": 1}]
            if loaded.dead
            else [{"l": "[" * depth + '"\\ufffd"' + "]" * depth, "m": "[" + '{"k":' * depth + "1" + "}" * depth + "]"}, {"n": 1}]
        )
        assert not loaded.dead or depth > 150


def test_json_too_large_for_the_encoder_is_written_the_same() -> None:
    value = [2**70, {"a": [], "b": {}, "c": {"d": [True, None, -1.5, 'x"\n', {"e": "é"}]}}, [[2**64], []]]
    (row,), _ = flat({"l": value})
    assert json.loads(row["l"]) == value
    assert row["l"] == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_escaped_backslashes_before_u0000_are_not_a_nul_character() -> None:
    value = ["\\u0000", "\\\\u0000", "\\\0", "\0\0"]
    rows, loaded = flat({"l": value})
    assert json.loads(rows[0]["l"]) == ["\\u0000", "\\\\u0000", "\\\ufffd", "\ufffd\ufffd"]
    assert loaded.batch.notes[NUL_REPLACED] == 3


def test_half_a_surrogate_does_not_stop_an_event() -> None:
    rows, loaded = flat(b'{"a":"x\\ud800y","b":1,"l":["\\ud83d\\ude42","\\ude42"]}')
    assert rows == [{"a": "x\ufffdy", "b": 1, "l": '["🙂","\ufffd"]'}]
    assert loaded.batch.notes[SURROGATE_REPLACED] == 2


@pytest.mark.parametrize("key", ["__sql_type", "__sql_type_a", "__sql_types", "JITSU_TABLE_NAME"])
def test_a_clients_hints_never_reach_a_table(key: str) -> None:
    rows, loaded = flat(
        {"a": 1, key: "jsonb", "o": {key: {"x": 1}, "b": 2}, "l": [{key: 1, "c": 3}]},
        *[{key: {"y": number}, f"k{number}": 1} for number in range(100)],
    )
    assert rows[0] == {"a": 1, "o_b": 2, "l": '[{"c":3}]'}
    assert all(set(row) == {f"k{number}"} for number, row in enumerate(rows[1:]))
    assert list(loaded.tables) == ["events"]
    assert _kind(loaded, "a") is Kind.BIGINT


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b'{"a":1}x', "malformed_json"),
        (b'{"a":"\xff"}', "malformed_json"),
        (b"[1]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"null", "not_an_object"),
        (b"1e400", "not_an_object"),
    ],
)
def test_a_body_that_is_no_json_object_is_a_dead_letter_with_its_bytes(body: bytes, reason: str) -> None:
    loaded = Desk().load({"a": 1}, body, {"a": 2})
    (dead,) = loaded.dead
    assert (dead.reason, dead.body, dead.index, dead.seq, dead.head.message_id) == (reason, body, 1, 1, "m1")
    assert [row["a"] for row in loaded.rows()] == [1, 2]
    assert loaded.batch.events == 3
