"""Subcommands about dead letters, as a user runs them."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.e2e.command.acts import changed, send
from tests.support.command import LocalStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_dead_letters_are_listed_shown_and_purged(stack: LocalStack) -> None:
    marker = uuid.uuid4().hex
    send(stack, {"type": "page", "name": marker}, {"type": "purchase", "userId": marker})
    listed = stack.run("dead", "list", "--stage", "ingest", "--site", "shop", "--limit", "100", "--json").json
    shown = [stack.run("dead", "show", letter["id"], "--json").json for letter in listed["letters"][-2:]]
    assert [(each["reason"], marker in each["body"]) for each in shown] == [("missing_id", True), ("unknown_type", True)]
    assert {each["key"] for each in shown} == {"shop-web"}
    text = stack.run("dead", "show", shown[0]["id"]).out
    assert marker in text
    assert "missing_id: " in text
    assert "unknown_type" in stack.run("dead", "list", "--since", "10m").out

    ids = [each["id"] for each in shown]
    exported = stack.run("dead", "export", *ids)
    assert [json.loads(line) for line in exported.out.splitlines()] == shown
    file = stack.folder / "events.ndjson"
    assert stack.run("dead", "export", *ids, "--events", "-o", str(file), "--json").json["written"] == 2
    assert file.read_text().splitlines() == [each["body"] for each in shown]

    mine = ["--where", f"{{field: userId, eq: {marker}}}", "--since", "10m"]
    dry = stack.run("dead", "purge", *mine, "--dry-run", "--json").json
    assert dry == {"purged": 0, "would_purge": 1, "unknown": []}
    dry = stack.run("dead", "replay", *mine, "--dry-run", "--json").json
    assert (dry["replayed"], [each["id"] for each in dry["refused"]]) == (0, [shown[1]["id"]])

    assert stack.run("dead", "purge", shown[0]["id"]).code == 2, "nobody is there to be asked"
    assert stack.run("dead", "purge", shown[0]["id"], "--yes", "--json").json == {"purged": 1, "unknown": []}
    after = stack.run("dead", "list", "--stage", "ingest", "--limit", "100", "--json").json
    assert after["total"] == listed["total"] - 1
    bodies = [stack.run("dead", "show", letter["id"], "--json").json["body"] for letter in after["letters"][-2:]]
    assert sum(marker in body for body in bodies) == 1, "the neighbour in the same message stays"


def test_dead_letters_of_a_connection_are_loaded_once_its_rules_allow(stack: LocalStack) -> None:
    marker = uuid.uuid4().hex

    def track(value: object) -> dict[str, Any]:
        return {
            "type": "track",
            "event": marker,
            "userId": "u",
            "messageId": uuid.uuid4().hex,
            "properties": {f"n_{marker}": value},
        }

    send(stack, track(1))
    stack.wait_for_rows(f"SELECT count(*) FROM live.events WHERE event = '{marker}'", 1)
    send(stack, track("seven"), track(2))
    stack.wait_for_rows(f"SELECT count(*) FROM live.events WHERE event = '{marker}'", 2)
    replay = ["dead", "replay", "--connection", "shop-live", "--reason", "type_conflict", "--json"]
    again = stack.run(*replay)
    assert again.code == 1
    assert (again.json["replayed"], again.json["dead_again"], again.json["waiting"]) == (1, 1, 0)

    assert stack.run("apply", str(changed(stack, "lenient", on_conflict="unmapped"))).code == 0
    done = stack.run(*replay)
    assert done.code == 0, done.out
    assert (done.json["replayed"], done.json["dead_again"]) == (1, 0)
    stack.wait_for_rows(f"SELECT count(*) FROM live.events WHERE event = '{marker}'", 3)
    assert stack.query(f"SELECT _unmapped_data FROM live.events WHERE event = '{marker}' AND _unmapped_data IS NOT NULL") == [
        (json.dumps({f"n_{marker}": "seven"}, separators=(",", ":")),)
    ]
    assert stack.run("dead", "list", "--connection", "shop-live", "--json").json["total"] == 0


def test_a_letter_that_is_gone_is_missed_with_words(stack: LocalStack) -> None:
    done = stack.run("dead", "show", "999999.0")
    assert done.code == 4
    assert "dead list" in done.err
    exported = stack.run("dead", "export", "--site", "nowhere")
    assert (exported.code, exported.out) == (1, "")
    assert "no dead letter of site 'nowhere'" in exported.err
