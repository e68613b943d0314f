"""Names that clients choose, all of them hostile: every value is found once, in its row and in its table."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from loader.contract.warehouse import Kind
from loader.rows.rules import Rules
from shared.project.model import Connection
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open

pytestmark = [pytest.mark.needs("evolve"), pytest.mark.timeout(120)]

QUOTES = [
    'a"b',
    'a""b',
    '"',
    "a'b",
    "'",
    "a`b",
    "``",
    "`",
    "a[b]",
    "\\",
    "a\\",
    "\\'",
    '\\"',
    "a\\`b",
    "%s",
    "%(a)s",
    "$1",
    "{}",
    "{a}",
]
CONTROL = [
    "a\0b",
    "\0",
    "a\nb",
    "a\tb",
    "\r",
    "\x7f",
    "\u200b",
    "\u202e",
    "\ufeff",
    "\ue000",
    "\U0001f600",
    " ",
    "a ",
    " a",
    "a\u00a0",
]
FOLDING = [
    "name", "Name", "NAME", "n a m e", "naMe", "na-me", "ｎａｍｅ", "straße", "STRASSE", "strasse", "\u212aelvin", "kelvin",
    "İstanbul", "istanbul", "ıstanbul", "é", "e\u0301", "ﬁ", "fi", "\U0001d434", "σς", "ΣΣ", "σσ", "\u00b5s", "\u03bcs", "x_", "x", "_x",
]  # fmt: skip
RESERVED = [
    "select", "order", "user", "table", "group", "key", "rank", "system", "row", "null", "true", "default", "final", "sample",
    "rowid", "ctid", "xmin", "oid", "tableoid", "DB_ROW_ID", "DB_TRX_ID", "DB_ROLL_PTR", "GEN_CLUST_INDEX", "PRIMARY", "ROW_START",
    "_part", "_version", "_sign", "_table", "_row_exists", "_block_number", "id", "message_id", "_loaded_at", "_seq", "_load_id", "_unmapped_data",
    "_penstock_turn", "_penstock_key", "_timestamp_micros",
]  # fmt: skip


def long(limit: int) -> list[str]:
    """Names around a limit of bytes or characters."""
    return [letter * (limit + more) for letter in ("a", "é", "名", "\U0001f600") for more in (-1, 0, 1)] + [
        "q" * (limit - 9) + "_12345678",
        "q" * limit + "_12345678",
    ]


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("kind", ["quotes", "control", "folding", "reserved", "long"])
async def test_every_value_is_found_whatever_its_key_is(wh: Open, kind: str, original: bool) -> None:
    limit = wh.capabilities.name_limit
    keys = {"quotes": QUOTES, "control": CONTROL, "folding": FOLDING, "reserved": RESERVED, "long": long(limit)}[kind]
    session = await wh.session()
    delivery = Delivery(wh, session, original_names=original, layout="passthrough")
    one = {key: f"1 {number}" for number, key in enumerate(keys)}
    assert await delivery.send({"messageId": "one", "properties": one}) == {}
    # the same in another order, and as another loader that knows the table only
    two = {key: f"2 {number}" for number, key in reversed(list(enumerate(keys)))}
    three = {key.upper(): f"3 {number}" for number, key in enumerate(keys)} | {"more": "3 more"}
    another = Delivery(wh, session, lane="other", original_names=original, layout="passthrough")
    assert await another.send({"messageId": "two", "properties": two}, {"messageId": "three", "properties": three}) == {}
    assert not delivery.why()
    assert not another.why()
    found = await wh.subject.rows("events", dict.fromkeys(["message_id"], Kind.TEXT))
    assert len(found) == 3
    values = Counter(
        value for row in found for value in row.values() if isinstance(value, str) and value[:2] in ("1 ", "2 ", "3 ")
    )
    assert values == Counter([*one.values(), *two.values(), *three.values()])


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("kind", ["quotes", "control", "folding", "reserved", "long"])
async def test_every_event_is_found_whatever_its_table_is_called(wh: Open, kind: str, original: bool) -> None:
    limit = wh.capabilities.name_limit
    names = {"quotes": QUOTES, "control": CONTROL, "folding": FOLDING, "reserved": RESERVED, "long": long(limit)}[kind]
    options: dict[str, Any] = {"original_names": original, "layout": "segment"}
    session = await wh.session()
    delivery = Delivery(wh, session, **options)
    events = [{"messageId": f"m{number}", "event": name, "userId": "u"} for number, name in enumerate(names)]
    assert await delivery.send(*events) == {}
    another = Delivery(wh, session, lane="other", **options)
    again = [{**event, "messageId": f"n{number}"} for number, event in reversed(list(enumerate(events)))]
    assert await another.send(*again) == {}
    rules = Rules(Connection(site="shop", destination="wh", **options), wh.capabilities)
    expected = Counter(str(event["messageId"]) for event in (*events, *again))
    rows: Counter[str] = Counter()
    for table in dict.fromkeys(rules.namer.table(name) for name in names):
        found = await wh.subject.rows(table, {"id": Kind.TEXT})
        rows += Counter(str(row["id"]) for row in found)
    assert delivery.kept.aside == another.kept.aside == 0
    tracks = Counter(str(row["id"]) for row in await wh.subject.rows("tracks", {"id": Kind.TEXT}))
    assert tracks == expected
    assert expected - rows == Counter()
