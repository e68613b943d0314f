"""A person is forgotten in tables that merge and in tables that append: rows by every id column go, their neighbours stay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from loader.contract.forgets import ForgetsPeople
from loader.contract.warehouse import Kind
from penstock.control.forgetting import MOST_IDS
from tests.support.delivery import Delivery
from tests.support.destinations.opened import Open

pytestmark = pytest.mark.needs("merge")

NAMES = ["jane", "device-1", "4711"]
PEOPLE: list[dict[str, Any]] = [
    {"type": "track", "event": "Order", "userId": "jane"},
    {"type": "track", "event": "Order", "userId": "Jane"},
    {"type": "track", "event": "Order", "userId": "jane "},
    {"type": "track", "event": "Order", "userId": "jané"},
    {"type": "track", "event": "Order", "anonymousId": "device-1"},
    {"type": "track", "event": "Order", "anonymousId": "device-10"},
    {"type": "track", "event": "Order", "userId": "4711"},
    {"type": "track", "event": "Order", "userId": "47110"},
    {"type": "identify", "userId": "jane", "traits": {"plan": "a"}},
    {"type": "identify", "userId": "joe", "traits": {"plan": "b"}},
    {"type": "alias", "userId": "joe", "previousId": "device-1"},
    {"type": "alias", "userId": "joe", "previousId": "device-2"},
    {"type": "group", "userId": "joe", "groupId": "acme"},
]
"""Their message ids are m0, m1 and so on."""
GONE = {"m0", "m4", "m6", "m8", "m10"}
SHAPES: dict[str, dict[str, Kind]] = {"id": {"id": Kind.TEXT}, "message_id": {"message_id": Kind.TEXT}}


async def ids(wh: Open, table: str, column: str) -> Counter[str]:
    return Counter(row[column] for row in await wh.rows(table, SHAPES[column], order=column))


@pytest.mark.parametrize("merges", [True, False])
async def test_rows_of_a_person_go_and_their_neighbours_stay(wh: Open, merges: bool) -> None:
    assert isinstance(wh.destination, ForgetsPeople)
    assert await wh.destination.forget_person(NAMES, epoch=1, delete=True) == {}
    session = await wh.session()
    delivery = Delivery(wh, session, layout="single_table", deduplicate=merges)
    assert await delivery.send(*PEOPLE) == {}
    everyone = Counter(f"m{number}" for number in range(len(PEOPLE)))
    assert await wh.destination.forget_person(NAMES, epoch=1, delete=False) == {"events": len(GONE)}
    assert await ids(wh, "events", "message_id") == everyone
    assert await wh.destination.forget_person(NAMES, epoch=1, delete=True) == {"events": len(GONE)}
    assert set(await ids(wh, "events", "message_id")) == set(everyone) - GONE
    assert await wh.destination.forget_person(NAMES, epoch=1, delete=True) == {"events": 0}
    # the session goes on as before
    assert await delivery.send({"type": "track", "event": "Order", "userId": "joe"}) == {}
    assert len(await ids(wh, "events", "message_id")) == len(PEOPLE) - len(GONE) + 1


async def test_tables_of_a_connection_that_left_are_searched_too_and_columns_by_name(wh: Open) -> None:
    assert isinstance(wh.destination, ForgetsPeople)
    delivery = Delivery(wh, await wh.session("left"), layout="single_table", deduplicate=False)
    traits = {"type": "identify", "userId": "joe", "traits": {"email": "jane@example.com"}}
    assert await delivery.send(traits, {"type": "track", "event": "Order", "userId": "jane"}) == {}
    assert await wh.destination.forget_person(["jane", "jane@example.com"], epoch=1, delete=True) == {"events": 1}
    columns = ["context_traits_email", "traits_email", "email"]
    found = await wh.destination.forget_person(["jane@example.com"], columns=columns, epoch=2, delete=True)
    assert found == {"events": 1}
    assert await ids(wh, "events", "message_id") == Counter()


async def test_a_thousand_ids_are_one_request(wh: Open) -> None:
    assert isinstance(wh.destination, ForgetsPeople)
    delivery = Delivery(wh, await wh.session(), layout="single_table", deduplicate=False)
    assert await delivery.send(*PEOPLE) == {}
    names = [f'it\'s \\ "{number}" %_' for number in range(MOST_IDS - 1)]
    assert await wh.destination.forget_person([*names, "jane"], epoch=1, delete=True) == {"events": 2}


async def test_profiles_go_by_their_id_and_a_message_id_is_no_persons_id(wh: Open) -> None:
    assert isinstance(wh.destination, ForgetsPeople)
    delivery = Delivery(wh, await wh.session(), layout="segment", deduplicate=True)
    assert await delivery.send(*PEOPLE) == {}
    found = await wh.destination.forget_person([*NAMES, "m9", "acme"], epoch=1, delete=True)
    assert {table: rows for table, rows in found.items() if rows} == {
        "order": 3, "tracks": 3, "identifies": 1, "users": 1, "aliases": 1, "groups": 1, "accounts": 1,
    }  # fmt: skip
    assert set(await ids(wh, "users", "id")) == {"joe"}
    assert set(await ids(wh, "tracks", "id")) == {"m1", "m2", "m3", "m5", "m7"}
    assert set(await ids(wh, "identifies", "id")) == {"m9"}
