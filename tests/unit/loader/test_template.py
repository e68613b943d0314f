"""The table template."""

from __future__ import annotations

import re
from typing import Any

import pytest

from loader.rows.template import TableTemplate
from shared.errors import ConfigError
from shared.events.outcome import Dead, DeadReason, Drop, DropReason
from tests.unit.loader.shaping import Desk

EMPTY = Drop(DropReason.TABLE_TEMPLATE_EMPTY)


def result(source: str, event: dict[str, Any] | None = None) -> Any:
    return TableTemplate(source).table(event or {}, "shop")


@pytest.mark.parametrize(
    ("source", "event", "table"),
    [
        ("{{ event.type }}", {"type": "track"}, "track"),
        ("{{ event['type'] }}_{{ site }}", {"type": "track"}, "track_shop"),
        ("  events  ", {}, "events"),
        ("{% if event.type == 'page' %}pages{% else %}rest{% endif %}", {"type": "track"}, "rest"),
        ("{{ event.properties.items }}", {"properties": {"items": "three"}}, "three"),
        ("{{ event.n }}", {"n": 5}, "5"),
    ],
)
def test_the_template_names_the_table(source: str, event: dict[str, Any], table: str) -> None:
    assert result(source, event) == table


@pytest.mark.parametrize(
    ("source", "event"),
    [("", {}), ("   ", {}), ("{{ event.missing }}", {}), ("{{ event.n }}", {"n": None}), ("{{ event.b }}", {"b": False})],
)
def test_an_empty_name_skips_the_event(source: str, event: dict[str, Any]) -> None:
    assert result(source, event) == EMPTY


@pytest.mark.parametrize(
    "source",
    [
        "{{ event.a.b.c }}",
        "{{ 1 / 0 }}",
        "{{ event.n + 1 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ event.update({'x': 1}) }}",
        "{% for i in range(99999999) %}x{% endfor %}",
        "{{ 'x' * 100000000 }}",
        "{{ 10 ** 100000000 }}",
        "{{ ('x' * 9999) * 9999 }}",
        "{{ 'x' * 2000 }}",
        "{% for i in range(2000) %}x{% endfor %}",
    ],
)
def test_a_failure_or_an_absurd_name_is_a_dead_letter(source: str) -> None:
    outcome = result(source, {"n": "text"})
    assert isinstance(outcome, Dead)
    assert outcome.reason is DeadReason.TABLE_TEMPLATE_FAILED
    assert "template" in outcome.detail


def test_a_template_that_does_not_compile_is_an_error_of_the_project_file() -> None:
    with pytest.raises(ConfigError) as caught:
        TableTemplate("{{ event.", "connections.shop-wh.table")
    assert caught.value.problems[0].path == "connections.shop-wh.table"


def test_events_without_a_table_are_dropped_and_counted_and_broken_ones_are_dead_with_their_bytes() -> None:
    desk = Desk({"table": "{% if event.n is none %}{% else %}t{{ 6 // event.n }}{% endif %}"})
    loaded = desk.load({"n": 2}, {"n": None}, {"n": 0}, {"n": 3})
    assert {table: len(rows) for table, rows in loaded.tables.items()} == {"t3": 1, "t2": 1}
    assert loaded.batch.dropped == {DropReason.TABLE_TEMPLATE_EMPTY: 1}
    (dead,) = loaded.dead
    assert (dead.index, dead.body, dead.reason) == (2, b'{"n": 0}', DeadReason.TABLE_TEMPLATE_FAILED)


def test_the_name_a_template_gives_is_folded_like_any_other() -> None:
    assert list(Desk({"table": "{{ event.w }}"}).load({"w": 'x"; DROP TABLE y --'}).tables) == ["x_drop_table_y_"]


def test_a_template_sees_the_times_of_the_event() -> None:
    assert list(Desk({"table": "events_{{ event.receivedAt.strftime('%Y%m') }}"}).load({}).tables) == ["events_202609"]


@pytest.mark.parametrize(
    ("source", "words"), [("{{ sites }}_x", "no `sites`; did you mean `site`?"), ("{% if x %}a{% endif %}", "no `x`;")]
)
def test_a_name_that_no_template_sees_is_refused_before_any_event(source: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        TableTemplate(source, "connections.c.table")


def test_names_that_a_template_makes_itself_are_fine() -> None:
    assert (
        TableTemplate("{% set x = event.type %}{% for n in range(1) %}{{ x }}{% endfor %}").table({"type": "page"}, "s") == "page"
    )
