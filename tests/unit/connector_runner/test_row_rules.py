"""The choice of columns, privacy rules and removals: a row in columns becomes what its JSON becomes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from connector_runner.json_rows import json_rows
from connector_runner.rules.sifting import FILTERED_AT, Rules, Sieve
from shared.project.functions import PrivacyRule
from shared.rules.privacy import NONCE_BYTES, decrypted
from shared.rules.where import read_where

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PERSON = pa.struct(
    [("email", pa.string()), ("name", pa.struct([("first", pa.string()), ("last", pa.string())])), ("ip", pa.string())]
)
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("email", pa.string()),
        ("price", pa.decimal128(30, 20)),
        ("ratio", pa.float64()),
        ("at", pa.timestamp("us", "UTC")),
        ("user", PERSON),
        ("tags", pa.list_(PERSON)),
        ("doc", pa.json_(pa.string())),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
    ]
)
DOCS = [
    None,
    '{"email":"a@x.io","deep":[{"email":"b@x.io","n":1.00000000000000000001}],"z":1}',
    '["a"]',
    '"text"',
    '{"user":{"email":null}}',
]


def sieve(**rules: Any) -> Sieve:
    if "where" in rules:
        rules["where"] = read_where(rules["where"])
    counter = itertools.count()
    return Sieve(Rules(**rules), NOW, lambda: next(counter).to_bytes(NONCE_BYTES, "big"))


def rows(draw: random.Random, count: int = 40) -> pa.Table:
    def maybe(value: Any) -> Any:
        return None if draw.random() < 0.2 else value

    def person() -> Any:
        name = {"first": maybe("ann"), "last": maybe(draw.choice("xyz"))}
        return {
            "email": maybe(f"{draw.choice('abc')}@x.io"),
            "name": maybe(name),
            "ip": maybe(draw.choice(["10.1.2.3", "no", "::1"])),
        }

    made: list[dict[str, Any]] = [
        {
            "id": number,
            "email": maybe(f"{draw.choice('abc')}@x.io"),
            "price": maybe(Decimal(draw.choice(["1.5", "0.10000000000000000001"]))),
            "ratio": maybe(draw.choice([0.5, float("nan"), 1e300])),
            "at": maybe(NOW),
            "user": maybe(person()),
            "tags": maybe([maybe(person()) for _ in range(draw.randrange(3))]),
            "doc": draw.choice(DOCS),
            "kind": maybe(draw.choice(["new", "old"])),
        }
        for number in range(count)
    ]
    arrays = []
    for each in SCHEMA:
        values = [row[each.name] for row in made]
        if isinstance(each.type, pa.JsonType):
            arrays.append(pa.ExtensionArray.from_storage(each.type, pa.array(values, pa.string())))
        else:
            arrays.append(pa.array(values, each.type))
    table = pa.table(arrays, schema=SCHEMA)
    return pa.concat_tables([table.slice(1, 10), table.slice(11)])


def normal(value: Any) -> Any:
    """Returns a value without nulls and objects that are empty then: a column has the same members in every row."""
    if isinstance(value, dict):
        return {key: found for key, each in value.items() if (found := normal(each)) not in (None, {})} or None
    return [normal(each) for each in value] if isinstance(value, list) else value


def decoded(lines: Sequence[bytes]) -> list[Any]:
    read = msgspec.json.Decoder(float_hook=Decimal).decode
    return [normal(read(line)) for line in lines]


def agree(table: pa.Table, **rules: Any) -> None:
    of_rows, of_columns = sieve(**rules), sieve(**rules)
    expected = [kept for line in json_rows(table) if (kept := of_rows.row(line)) is not None]
    found = of_columns.table(table)
    assert decoded(list(json_rows(found))) == decoded(expected)
    assert (of_columns.filtered, of_columns.removals) == (of_rows.filtered, of_rows.removals)
    assert of_columns.idle == of_rows.idle


def rule(field: str | list[str], do: str, **more: str) -> PrivacyRule:
    return msgspec.convert({"field": field, "do": do, **more}, PrivacyRule)


RULES = [
    rule("email", "hash", secret="s"),
    rule("price", "hash", secret="s"),
    rule("ratio", "hash", secret="s"),
    rule("at", "hash", secret="s"),
    rule("user", "hash", secret="s"),
    rule("tags", "hash", secret="s"),
    rule("doc", "hash", secret="s"),
    rule("kind", "hash", secret="s"),
    rule("**.email", "hash", secret="s"),
    rule("user.*", "hash", secret="s"),
    rule("*.email", "drop"),
    rule("**.name.**.last", "drop"),
    rule("**.n", "hash", secret="s"),
    rule("doc.deep.email", "drop"),
    rule("user.ip", "truncate"),
    rule("**.ip", "truncate"),
    rule("id", "truncate"),
    rule("email", "rename", to="mail"),
    rule("email", "rename", to="kind"),
    rule("**.user", "rename", to="person"),
    rule("**.name", "rename", to="email"),
    rule("user", "drop"),
    rule("absent.email", "drop"),
]


@pytest.mark.parametrize("one", RULES, ids=lambda each: f"{each.do} {each.field}")
def test_a_rule_does_to_a_column_what_it_does_to_a_row(one: PrivacyRule) -> None:
    agree(rows(random.Random(1)), privacy=[one])


def test_rules_in_a_row_see_what_the_ones_before_left() -> None:
    draw = random.Random(2)
    for _ in range(40):
        agree(rows(draw, 12), privacy=draw.sample(RULES, 4))


@pytest.mark.parametrize(
    "columns",
    [["id"], ["id", "user.email"], ["user.name.last", "user.ip"], ["tags.email", "id"], ["doc.deep.n", "doc.email"], ["user", "user.email", "kind"], ["email.x", "id"], ["user.absent", "id"]],
)  # fmt: skip
def test_columns_are_chosen_by_path(columns: list[str]) -> None:
    paths = tuple(tuple(each.split(".")) for each in columns)
    table = rows(random.Random(3))
    agree(table, columns=paths)
    assert not any(
        key in SCHEMA.names and key not in {path[0] for path in paths} for key in sieve(columns=paths).table(table).column_names
    )


def test_what_is_not_selected_keeps_its_bytes_from_everybody() -> None:
    line = b'{"id": 1.00000000000000000000001, "user": {"email": "a@x.io", "pin": 1234}, "list": [{"a": 1, "b": 2}, 3], "x": "secret"}'
    chosen = sieve(columns=(("id",), ("user", "email"), ("list", "b")))
    assert chosen.row(line) == b'{"id":1.00000000000000000000001,"user":{"email":"a@x.io"},"list":[{"b":2}]}'


@pytest.mark.parametrize("mark", [None, FILTERED_AT, "at"])
@pytest.mark.parametrize("deleted", [(), ("at",)])
@pytest.mark.parametrize("obeyed", [False, True])
def test_rows_leave_alike(mark: str | None, deleted: tuple[str, ...], obeyed: bool) -> None:
    for seed in range(5):
        agree(
            rows(random.Random(seed)),
            where=[{"field": "email", "in": ["a@x.io", "b@x.io"]}, {"field": "ratio", "exists": True}],
            columns=(("id",), ("at",), ("user", "name", "last"), ("user", "email")),
            privacy=[rule("id", "hash", secret="s")],
            known_by=(("id",), ("user", "email"), *((deleted,) if deleted else ())),
            mark=mark,
            deleted=deleted,
            obeyed=obeyed and bool(deleted),
        )


def test_a_removal_has_its_key_and_nothing_else() -> None:
    gone = sieve(where={"field": "country", "eq": "DE"}, known_by=(("id",), ("at",)), mark=FILTERED_AT)
    assert gone.row(b'{"id":1,"country":"DE","name":"x"}') == b'{"id":1,"country":"DE","name":"x"}'
    assert msgspec.json.decode(gone.row(b'{"id":2,"country":"FR","name":"x","at":5}') or b"") == {
        "id": 2, "at": 5, FILTERED_AT: "2026-03-01T00:00:00.000000Z",
    }  # fmt: skip
    table = gone.table(pa.table({"id": [3, 4], "country": ["FR", "DE"], "name": ["x", "y"]}))
    assert table.to_pylist() == [
        {"id": 3, "country": None, "name": None, FILTERED_AT: NOW},
        {"id": 4, "country": "DE", "name": "y", FILTERED_AT: None},
    ]
    assert (gone.filtered, gone.removals) == (2, 2)


def test_a_deleted_row_that_does_not_tell_its_fields_passes_bare() -> None:
    rules: dict[str, Any] = {
        "where": {"field": "country", "eq": "DE"},
        "known_by": (("id",), ("_deleted_at",)),
        "deleted": ("_deleted_at",),
        "mark": FILTERED_AT,
    }
    told = sieve(**rules)
    assert told.row(b'{"id":1,"_deleted_at":"t","country":null}') == b'{"id":1,"_deleted_at":"t"}'
    assert told.filtered == 0
    removal = msgspec.json.decode(told.row(b'{"id":1,"_deleted_at":"t","country":"FR"}') or b"")
    assert set(removal) == {"id", FILTERED_AT}, "a removal is no deletion too"
    obeyed = sieve(**{**rules, "mark": "_deleted_at", "obeyed": True})
    assert obeyed.row(b'{"id":1,"_deleted_at":"t","country":"FR","x":1}') == b'{"id":1,"_deleted_at":"t"}'


def test_former_values_are_hidden_and_chosen_too() -> None:
    line = b'{"id":1,"email":"a@x.io","_before":{"email":"b@x.io","name":"x"}}'
    hidden = sieve(
        columns=(("id",), ("email",), ("_before", "email")), privacy=[rule("email", "hash", secret="s")], before=("_before",)
    )
    found = msgspec.json.decode(hidden.row(line) or b"")
    assert found["_before"] == {"email": msgspec.json.decode(hidden.row(b'{"email":"b@x.io"}') or b"")["email"]}
    before = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(['{"email":"b@x.io","name":"x"}']))
    table = pa.table({"id": [1], "email": ["a@x.io"], "_before": before})
    assert [msgspec.json.decode(each) for each in json_rows(hidden.table(table))] == [found]


def test_encrypted_values_differ_and_can_be_read_with_the_key() -> None:
    hidden = sieve(privacy=[rule("email", "encrypt", key="k")])
    table = hidden.table(pa.table({"email": ["a@x.io", "a@x.io", None]}))
    one, other, none = table.column("email").to_pylist()
    assert one != other
    assert none is None
    assert decrypted(one, "k") == decrypted(other, "k") == b"a@x.io"


def test_a_column_of_texts_that_its_database_calls_json_is_read_and_stays_text() -> None:
    table = pa.table({"id": [1, 2], "doc": ['{"email": "a@x.io", "n": 1}', None]})
    rules: dict[str, Any] = {"columns": (("id",), ("doc", "n")), "json": frozenset(("doc", "other"))}
    found = sieve(**rules).table(table)
    assert found.to_pylist() == [{"id": 1, "doc": '{"n":1}'}, {"id": 2, "doc": None}]
    assert found.schema.field("doc").type == pa.string()
    filtered = sieve(where={"field": "doc.n", "gt": 0}, json=frozenset(("doc",))).table(table)
    assert filtered.to_pylist() == [{"id": 1, "doc": '{"email": "a@x.io", "n": 1}'}]


def test_a_row_that_cannot_be_read_is_left_out_and_counted() -> None:
    hidden = sieve(privacy=[rule("email", "drop")])
    assert hidden.row(b'{"id":1,"x":NaN,"email":"a"}') == b'{"id":1,"x":null}'
    assert hidden.row(b'{"id":') is None
    assert hidden.unreadable == 1
    assert "JSON" in hidden.unreadable_why


def test_a_rule_that_finds_nothing_is_known() -> None:
    hidden = sieve(privacy=[rule("emial", "drop"), rule("**.email", "drop")])
    assert hidden.idle == []
    hidden.row(b'{"id":1}')
    assert hidden.idle == ["emial", "**.email"]
    hidden.table(pa.table({"email": ["a"], "id": [1]}))
    assert hidden.idle == ["emial"]
