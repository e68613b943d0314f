"""The table of states in docs/operations.md is true: the texts, metrics and lines of the log exist, and a test provokes each state."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.telemetry.declared import METRICS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
PROVOKED = {
    "no connection to the broker": "e2e/test_reach.py::test_a_broker_that_is_away_one_that_refuses_the_user_and_one_without_room_are_told_apart",
    "streams cannot be made": "e2e/test_reach.py::test_a_broker_that_is_away_one_that_refuses_the_user_and_one_without_room_are_told_apart",
    "a stream is nearly full": "unit/shared/test_health.py::test_a_nearly_full_stream_is_a_warning_until_it_is_well_below",
    "EVENTS is full": "unit/ingest/test_readiness.py::test_a_full_stream_makes_the_edge_unready_until_it_has_room",
    "a reader holds EVENTS back": "e2e/test_full_streams.py::test_frames_that_every_reader_passed_go_when_room_is_short_and_no_others",
    "the journal is nearly full": (
        "unit/ingest/test_readiness.py::test_a_journal_that_fills_is_a_warning_and_a_full_one_a_problem_with_the_next_step"
    ),
    "the journal is full": (
        "unit/ingest/test_readiness.py::test_a_journal_that_fills_is_a_warning_and_a_full_one_a_problem_with_the_next_step"
    ),
    "dead letters are lost": (
        "unit/shared/test_dead_log.py::"
        "test_letters_that_dead_has_no_room_for_are_counted_told_by_whose_they_were_and_forgotten_after_an_hour"
    ),
    "a load fails": "e2e/test_status.py::test_a_connection_that_fails_is_failing_also_where_its_service_is_ready",
    "dead letters stop a connection": "e2e/test_dead_limit.py::test_most_events_dying_stops_the_line_until_a_person_lets_it_go_on",
    "events wait although the destination answers": (
        "unit/loader/test_limit.py::test_an_event_that_waits_though_its_destination_answers_is_told_with_age_and_next_step"
    ),
    "a table fails, its rows are set aside": "e2e/test_status.py::test_a_failing_table_is_a_state_with_rows_reason_and_next_try",
    "a table was dropped by hand": (
        "e2e/test_loader.py::test_a_table_dropped_by_hand_gets_new_rows_only_and_is_told_until_a_replay_brings_the_others"
    ),
    "a destination went back": "faults/test_went_back.py::test_what_a_restored_warehouse_lacks_is_loaded_again_once",
    "something of a destination that went back cannot come again": (
        "unit/loader/test_look_back.py::test_what_cannot_come_again_by_itself_is_told_with_the_command_for_a_day"
    ),
    "a site's archive does not move": "e2e/router/test_archive.py::test_while_the_store_is_away_it_says_so_and_loses_nothing",
    "the layout of a site with shards cannot be read": (
        "e2e/router/test_damaged_values.py::test_a_damaged_layout_holds_its_site_alone_and_no_damaged_value_ends_a_router"
    ),
    "a connection cannot read the archive": (
        "faults/test_rebuild.py::test_a_rebuild_tells_of_a_damaged_archive_is_paused_resumed_and_merges_into_what_is_there"
    ),
    "the broker's store is older than the destination": (
        "unit/loader/test_look_back.py::test_a_store_that_ends_before_the_destination_is_told_in_the_state_and_in_the_log"
    ),
    "another stack's ledger": (
        "unit/loader/test_persistence.py::"
        "test_a_ledger_of_another_stack_is_told_as_such_and_taken_over_only_when_that_is_asked_for"
    ),
    "a lookup cannot be read": "e2e/test_lookups_whole.py::test_events_wait_for_the_first_table_and_go_on_with_the_last_one",
    "a sync fails": (
        "unit/connector_runner/test_told.py::test_a_run_that_failed_is_a_warning_also_after_a_restart_and_until_one_succeeds"
    ),
    "a sync is held": "unit/connector_runner/test_told.py::test_what_holds_a_run_is_said_while_it_does_and_logged_once",
    "a sync tries again": "unit/connector_runner/test_told.py::test_what_holds_a_run_is_said_while_it_does_and_logged_once",
    "a connector is silent": "unit/connector_runner/test_told.py::test_what_holds_a_run_is_said_while_it_does_and_logged_once",
    "alerts are not evaluated": "e2e/router/test_alert_deaths.py::test_alerts_that_cannot_be_evaluated_are_said_until_they_are",
    "a feed fails": "contract/feeds/test_feeds.py::test_a_source_that_goes_away_is_said_and_followed_again",
    "a feed is held": "contract/feeds/test_states.py::test_a_feed_is_held_while_our_broker_has_no_room_or_is_away",
    "records of a feed die": "contract/feeds/test_states.py::test_a_feed_whose_records_die_says_so_until_they_live",
    "an alert cannot be sent": (
        "e2e/router/test_alert_deaths.py::test_a_channel_that_does_not_work_is_warned_of_and_asked_less_and_less_until_it_works"
    ),
    "clients are refused": "unit/ingest/test_readiness.py::test_who_is_refused_is_told_for_a_while_and_the_edge_stays_ready",
    "a webhook is sealed": (
        "unit/ingest/test_hooks.py::test_a_webhook_without_its_secret_is_sealed_and_said_once_until_it_is_there"
    ),
    "a process of the edge keeps dying": (
        "unit/ingest/test_family.py::test_a_process_that_keeps_dying_is_told_and_counted_although_it_runs_again"
    ),
}


def rows() -> Iterator[list[str]]:
    section = (
        PAGE.read_text(encoding="utf-8")
        .partition("### What can be wrong, and where it is told")[2]
        .partition("Worth an alert")[0]
    )
    for line in section.splitlines()[4:]:
        if line.startswith("| ") and not line.startswith(("| state ", "| --- ")):
            yield [cell.strip(" ") for cell in line.strip("|").split(" | ")]


ROWS = {row[0]: row for row in rows()}
CODE = [
    node
    for folder in ("ingest", "router", "functions_runtime", "connector_runner", "loader", "shared")
    for file in (ROOT / folder).rglob("*.py")
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
]
TEXTS = [node.value for node in CODE if isinstance(node, ast.Constant) and isinstance(node.value, str)]
TEXT = "\0".join(TEXTS)


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_state_of_the_table_has_a_test_that_provokes_it() -> None:
    assert set(ROWS) == set(PROVOKED)
    for place in set(PROVOKED.values()):
        file, _, name = place.partition("::")
        assert re.search(rf"^(async )?def {name}\b", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE), place


@pytest.mark.parametrize("state", ROWS)
def test_what_the_table_says_of_a_state_is_in_the_code(state: str) -> None:
    _, where, says, step, metrics, line = ROWS[state]
    assert where
    assert step
    assert [text for text in quoted(says) if text.strip() not in TEXT] == []
    assert quoted(metrics)
    assert set(quoted(metrics)) <= {metric.name for metric in METRICS}
    assert [text for text in quoted(line) if text not in TEXTS] == []
    assert quoted(line)
