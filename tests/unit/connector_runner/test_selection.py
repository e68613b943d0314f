"""What a sync reads of a catalogue, and how it stores it; each mistake says what to write."""

from __future__ import annotations

from typing import Any

import pytest

from connector_runner.contract import Stream
from connector_runner.syncs.selection import Chosen, choose
from shared.errors import SetupError
from shared.project.functions import PrivacyRule
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


def test_hard_deletes_without_a_key_say_what_to_write() -> None:
    keyless = (Stream(name="log", modes=("incremental",), source_cursor=True, cursor=("_lsn",), deleted=("_deleted_at",)),)
    with pytest.raises(SetupError, match=r"the connector names none: write `primary_key`, or `deletes: soft` for this stream"):
        choose("s", sync(**{"*": {"deletes": "hard"}}), keyless)


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


PEOPLE = Stream(
    name="people",
    json_schema={
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "name": {"type": ["null", "string"]},
            "doc": {},
            "user": {"type": "object", "properties": {"email": {"type": "string"}}},
            "tags": {"type": "array", "items": {"type": "object", "properties": {"label": {"type": "string"}}}},
        },
        "additionalProperties": True,
    },
    modes=("full_refresh", "incremental"),
    source_cursor=True,
    cursor=("_lsn",),
    primary_key=(("id",),),
    deleted=("_deleted_at",),
    before=("_before",),
    added=("_committed_at",),
)
SALTED = PrivacyRule(field="id", do="hash", secret="s")


def people(**how: Any) -> Chosen:
    (chosen,) = choose("s", sync(people=how), [PEOPLE])
    return chosen


def test_columns_that_are_asked_for_are_those_that_are_stored_or_looked_at() -> None:
    chosen = people(
        columns=["user.email", "tags.label"], where=[{"field": "name", "eq": "x"}, {"field": "tags.0.label", "ne": "y"}]
    )
    asked = {("user", "email"), ("tags", "label"), ("name",), ("tags", "0", "label"), ("_deleted_at",)}
    assert set(chosen.selected.columns or ()) == asked
    stored = {("user", "email"), ("tags", "label"), ("id",), ("_lsn",), ("_deleted_at",)}
    assert set(chosen.rules.columns or ()) == stored | {("_before", *path) for path in stored} | {("_committed_at",)}
    assert people().rules.any is False


def test_rows_leave_by_the_mark_that_the_loader_goes_by() -> None:
    where = {"field": "name", "eq": "x"}
    soft, hard, history = (people(where=where, **how) for how in ({}, {"deletes": "hard"}, {"write": "history"}))
    assert (soft.stored.deleted, soft.stored.marked, soft.rules.mark) == (("_filtered_at",), ("_deleted_at",), "_filtered_at")
    assert (hard.stored.deleted, hard.rules.mark, hard.rules.obeyed) == (("_deleted_at",), "_deleted_at", True)
    assert (history.stored.deleted, history.rules.mark) == (("_deleted_at",), "_deleted_at")
    for how in (
        {"unmatched": "keep"},
        {"write": "append"},
        {"write": "insert_only"},
        {"mode": "full_refresh", "write": "replace"},
    ):
        assert people(where=where, **how).rules.mark is None


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"columns": ["id", "user.emial"]}, r"streams\.people\.columns\[1\]: user has no 'emial'; did you mean `email`"),
        ({"columns": ["name.first"]}, r"columns\[0\]: name is of type string, so it has nothing inside"),
        ({"columns": ["tags.lable"]}, r"columns\[0\]: tags has no 'lable'"),
        ({"where": {"field": "nmae", "eq": 1}}, r"streams\.people\.where: .* has for this stream no 'nmae'; did you mean `name`"),
        ({"where": {"field": "name", "equals": 1}}, r"streams\.people: .*unknown operator"),
        ({"privacy": [PrivacyRule(field="emial", do="drop")]}, r"privacy\[0\]\.field: .*no 'emial'.* write `\*\*\.emial`"),
        ({"privacy": [PrivacyRule(field="id", do="drop")]}, r"privacy\[0\]\.field: id is the key of the rows, .*only be hashed"),
        ({"privacy": [PrivacyRule(field="*", do="truncate")]}, r"_deleted_at is the mark of deletion of the rows"),
        ({"privacy": [SALTED, PrivacyRule(field="_lsn", do="drop")]}, r"privacy\[1\]\.field: _lsn is the cursor"),
        (
            {"privacy": [PrivacyRule(field="name", do="rename", to="id")]},
            r"privacy\[0\]\.to: id is the key of the rows, so no other",
        ),
    ],
)
def test_rules_that_do_not_fit_the_catalogue_are_said(how: dict[str, Any], why: str) -> None:
    with pytest.raises(SetupError, match=why):
        people(**how)


def test_what_the_catalogue_cannot_know_is_taken() -> None:
    chosen = people(
        columns=["doc.any.thing", "_before", "_committed_at"],
        where={"field": "_lsn", "gt": 1},
        privacy=[PrivacyRule(field="**.ssn", do="drop"), SALTED],
    )
    assert chosen.rules.json == {"doc"}
    assert people(write="append", privacy=[PrivacyRule(field="id", do="drop")]).stored.key == ()


def test_an_unknown_stream_of_a_request_is_said() -> None:
    with pytest.raises(SetupError, match="no stream nothing"):
        choose("s", sync(), CATALOGUE, ["nothing"])
