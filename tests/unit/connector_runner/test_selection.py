"""What a sync reads of a catalogue, and how it stores it; each mistake says what to write."""

from __future__ import annotations

from typing import Any

import pytest

from connector_runner.contract import Stream
from connector_runner.syncs.selection import choose
from shared.errors import SetupError
from shared.project.syncs import Sync, SyncStream

USERS = Stream(
    name="users", namespace="crm", modes=("full_refresh", "incremental"), cursor=("updated_at",), primary_key=(("id",),)
)
TAGS = Stream(name="tags")
CHANGES = Stream(
    name="orders",
    modes=("incremental",),
    source_cursor=True,
    cursor=("_lsn",),
    primary_key=(("shop", "id"),),
    deleted=("_deleted_at",),
)
CATALOGUE = (USERS, TAGS, CHANGES)


def sync(**streams: Any) -> Sync:
    chosen = {name.replace("__", "."): how and SyncStream(**how) for name, how in streams.items()}
    return Sync(connector="crm", destination="wh", streams=chosen)


def test_without_a_word_all_streams_come_as_they_can() -> None:
    users, tags, orders = choose("s", sync(), CATALOGUE)
    assert (users.selected.mode, users.stored.write, users.stored.table) == ("incremental", "merge", "users")
    assert (users.stored.key, users.stored.cursor) == ((("id",),), ("updated_at",))
    assert (tags.selected.mode, tags.stored.write, tags.stored.key) == ("full_refresh", "replace", ())
    assert (orders.selected.mode, orders.stored.write, orders.stored.key) == ("incremental", "merge", (("shop", "id"),))
    assert orders.stored.deleted == ()


def test_named_streams_come_alone_and_a_star_is_the_rest() -> None:
    assert [each.stored.name for each in choose("s", sync(crm__users=None), CATALOGUE)] == ["crm.users"]
    wanted = sync(tags={"enabled": False}, **{"*": {"mode": "incremental"}})
    assert [each.stored.name for each in choose("s", wanted, CATALOGUE)] == ["crm.users", "orders"]
    assert [each.stored.name for each in choose("s", sync(), CATALOGUE, ["tags"])] == ["tags"]


def test_what_the_file_says_wins() -> None:
    how = {
        "mode": "full_refresh",
        "write": "append",
        "table": "people",
        "columns": ["id", "address.city"],
        "column_types": {"id": "int"},
    }
    (users,) = choose("s", sync(crm__users=how), CATALOGUE)
    assert users.selected.mode == "full_refresh"
    assert users.selected.columns == (("id",), ("address", "city"))
    assert (users.stored.table, users.stored.write, users.stored.key) == ("people", "append", ())
    assert users.stored.types == {"id": "int"}


def test_a_table_has_the_prefix_of_the_sync() -> None:
    wanted = Sync(connector="crm", destination="wh", table_prefix="crm_", streams={"tags": SyncStream(table="labels"), "*": None})
    assert [each.stored.table for each in choose("s", wanted, CATALOGUE)] == ["crm_users", "labels", "crm_orders"]


def test_deletions_go_where_they_are_wanted() -> None:
    (orders,) = choose("s", sync(orders={"deletes": "hard"}), CATALOGUE)
    assert orders.stored.deleted == ("_deleted_at",)
    (orders,) = choose("s", sync(orders={"write": "history"}), CATALOGUE)
    assert orders.stored.deleted == ("_deleted_at",)


@pytest.mark.parametrize(
    ("streams", "why"),
    [
        ({"user": None}, "no such stream"),
        ({"crm__user": None}, "did you mean `crm.users`"),
        ({"tags": {"mode": "incremental"}}, "only whole"),
        ({"tags": {"write": "merge"}}, "primary_key"),
        ({"tags": {"write": "merge", "primary_key": ["id"], "deletes": "hard"}}, "does not tell"),
        ({"orders": {"mode": "full_refresh"}}, "only as changes"),
        ({"orders": {"cursor": "at"}}, "insists on the cursor _lsn"),
        ({"orders": {"write": "append", "deletes": "hard"}}, "write: merge"),
        ({"orders": {"write": "replace"}}, "replace needs all rows"),
        ({"tags": {"table": "USERS"}, "crm__users": None}, "is that of stream"),
        ({"crm__users": {"enabled": False}}, "no stream to read"),
    ],
)
def test_what_does_not_fit_is_said(streams: dict[str, Any], why: str) -> None:
    with pytest.raises(SetupError, match=why):
        choose("s", sync(**streams), CATALOGUE)


def test_an_unknown_stream_of_a_request_is_said() -> None:
    with pytest.raises(SetupError, match="no stream nothing"):
        choose("s", sync(), CATALOGUE, ["nothing"])
