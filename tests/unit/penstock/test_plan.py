"""What a plan says of two documents, and what it never says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.command.apply import _ask
from penstock.control.project import plan
from penstock.control.project.consequences import Loss
from penstock.control.project.plan import Change, compare, inline_secrets, mask
from penstock.control.project.projects import Plan
from penstock.terminal.screen import Screen
from shared.errors import ConfigError

PROJECT: dict[str, Any] = {
    "sites": {"shop": {"keys": [{"id": "web"}, {"id": "api", "secret": "${S}"}], "origins": ["https://a"]}},
    "destinations": {"wh": {"type": "postgres", "dsn": "${DSN}"}},
    "connections": {"shop-wh": {"site": "shop", "destination": "wh", "batch": {"period": "5m"}}},
}


def changed(path: list[str | int], value: object) -> dict[str, Any]:
    """The project with one place replaced."""
    import copy

    document = copy.deepcopy(PROJECT)
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


def test_equal_documents_need_no_change() -> None:
    assert compare(PROJECT, changed(["destinations", "wh", "type"], "postgres")) == []


def test_a_changed_value_is_named_by_its_path() -> None:
    after = changed(["connections", "shop-wh", "batch", "period"], "1m")
    assert compare(PROJECT, after) == [Change(path="connections.shop-wh.batch.period", kind="change", before="5m", after="1m")]


def test_a_member_of_a_list_of_mappings_is_compared_by_its_place() -> None:
    after = changed(["sites", "shop", "keys", 1, "id"], "backend")
    assert [change.path for change in compare(PROJECT, after)] == ["sites.shop.keys[1].id"]


def test_a_longer_list_of_mappings_adds_its_new_members_only() -> None:
    after = changed(["sites", "shop", "keys"], [*PROJECT["sites"]["shop"]["keys"], {"id": "app"}])
    assert compare(PROJECT, after) == [Change(path="sites.shop.keys[2]", kind="add", after={"id": "app"})]


def test_a_list_of_scalars_changes_as_a_whole() -> None:
    after = changed(["sites", "shop", "origins"], ["https://a", "https://b"])
    assert [(change.path, change.kind) for change in compare(PROJECT, after)] == [("sites.shop.origins", "change")]


def test_added_and_removed_entries_are_one_change_each() -> None:
    after = changed(["destinations"], {"lake": {"type": "local", "path": "/x"}})
    assert [(change.path, change.kind) for change in compare(PROJECT, after)] == [
        ("destinations.wh", "remove"),
        ("destinations.lake", "add"),
    ]


def test_a_value_that_only_changes_its_type_is_a_change() -> None:
    assert [change.path for change in compare({"a": {"b": 1}}, {"a": {"b": True}})] == ["a.b"]


def test_another_value_of_a_variable_is_told_without_the_value() -> None:
    old = changed(["destinations", "wh", "dsn"], "postgresql://u:old@h/d")
    new = changed(["destinations", "wh", "dsn"], "postgresql://u:new@h/d")
    changes = compare(PROJECT, PROJECT, old, new)
    assert changes == [Change(path="destinations.wh.dsn", kind="variable")]


def test_a_changed_file_of_a_tracking_plan_is_no_variable_and_shows_what_changed() -> None:
    document = {"tracking_plans": {"shop": {"file": "plans/shop.yaml"}}}
    old, new = (
        {"tracking_plans": {"shop": {"file": "plans/shop.yaml", "unplanned_events": word}}} for word in ("report", "drop")
    )
    assert compare(document, document, old, new) == [
        Change(path="tracking_plans.shop.unplanned_events", kind="change", before="report", after="drop")
    ]


def test_a_written_change_is_not_told_again_as_a_changed_variable() -> None:
    after = changed(["destinations", "wh", "dsn"], "${OTHER}")
    old, new = changed(["destinations", "wh", "dsn"], "a"), changed(["destinations", "wh", "dsn"], "b")
    assert [change.kind for change in compare(PROJECT, after, old, new)] == ["change"]


def test_secrets_written_into_a_file_are_masked_and_named() -> None:
    document: dict[str, Any] = {
        "sites": {"shop": {"keys": [{"id": "api", "secret": "hunter2"}]}},
        "destinations": {
            "a": {"dsn": "postgresql://user:hunter2@host/db"},
            "b": {"dsn": "host=h password=hunter2 user=u"},
            "c": {"access_token": "hunter2"},
            "d": {"dsn": "postgresql://user:${PASSWORD}@host/db"},
        },
    }
    assert "hunter2" not in str(mask(document))
    assert "hunter2" not in str(compare({}, document))
    assert mask(document)["destinations"]["d"] == document["destinations"]["d"]
    assert inline_secrets(document) == [
        "sites.shop.keys[0].secret",
        "destinations.a.dsn",
        "destinations.b.dsn",
        "destinations.c.access_token",
    ]


def test_a_secret_is_masked_whatever_characters_it_has() -> None:
    crm = {"type": "webhook", "url": "https://crm.test/in", "secret": "aHVudGVyMg==", "headers": {"Cookie": "id=hunter2"}}
    document: dict[str, Any] = {
        "sites": {"shop": {"keys": [{"id": "api", "secret": "hunter2="}]}},
        "destinations": {"crm": crm, "wh": {"type": "mysql", "dsn": "mysql://user:p@hunter2@host/db"}},
    }
    shown = str(mask(document)) + str(compare({}, document))
    assert "hunter2" not in shown
    assert "aHVudGVyMg" not in shown
    assert "https://crm.test/in" in shown
    assert len(inline_secrets(document)) == 4


def test_a_token_in_a_variable_is_shown_as_written() -> None:
    crm = {"type": "webhook", "url": "https://crm.test/in", "headers": {"Authorization": "Bearer ${CRM_TOKEN}"}}
    document = {"destinations": {"crm": crm, "wh": {"type": "mysql", "dsn": "mysql://user@host/db"}}}
    assert mask(document) == document
    assert inline_secrets(document) == []


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=50)
@given(
    st.dictionaries(st.text("xyz", min_size=1), documents, max_size=4),
    st.dictionaries(st.text("xyz", min_size=1), documents, max_size=4),
)
def test_there_is_a_change_exactly_where_documents_differ(before: dict[str, Any], after: dict[str, Any]) -> None:
    from penstock.control.project.plan import plain

    same = _typed(plain(before)) == _typed(plain(after))
    assert (compare(before, after) == []) is same


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return (type(value).__name__, value)


def test_an_option_that_its_destination_marks_as_secret_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "secrets_of", lambda type_name: frozenset({"hook"}) if type_name == "chat" else frozenset())
    written = {"destinations": {"a": {"type": "chat", "hook": "abc", "room": "x"}, "b": {"type": "other", "hook": "abc"}}}
    assert inline_secrets(written) == ["destinations.a.hook"]
    assert mask(written)["destinations"]["a"] == {"type": "chat", "hook": "***", "room": "x"}
    other = {"destinations": {"a": {"type": "chat", "hook": "def", "room": "x"}, "b": {"type": "other", "hook": "abc"}}}
    assert compare(written, other) == [Change(path="destinations.a.hook", kind="change", before="***", after="***")]


def test_where_nobody_can_be_asked_an_error_names_what_goes_and_what_to_do() -> None:
    made = Plan(revision=1, changes=[], losses=[Loss(path="connections.shop-wh", what="the connection goes")])
    with pytest.raises(ConfigError) as refused:
        _ask(Screen(), made, "start the stack without --project")
    assert [str(problem) for problem in refused.value.problems] == [
        "connections.shop-wh: the connection goes",
        "apply: start the stack without --project; nothing was changed",
    ]
    with pytest.raises(ConfigError, match=r"^apply: say --yes"):
        _ask(Screen(), made, None)
