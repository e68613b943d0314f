"""Subcommands about the project, as a user runs them: plan, apply, export, history, rollback, check."""

from __future__ import annotations

import json
import uuid

import pytest
import yaml

from penstock.control.project.projects import apply_document, check_document, read_document
from shared.errors import Conflict
from shared.jetstream.broker import connect
from shared.project.snapshot import stored_project
from tests.e2e.command.acts import changed, page, revision, send
from tests.support.command import LocalStack
from tests.support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_the_applied_file_needs_no_change(stack: LocalStack) -> None:
    done = stack.run("plan", "--exit-code")
    assert (done.code, done.out.strip()) == (0, "nothing to change")


def test_a_plan_names_what_differs_and_changes_nothing(stack: LocalStack) -> None:
    before, file = revision(stack), changed(stack, "widen", on_conflict="widen")
    done = stack.run("plan", str(file), "--json", "--exit-code")
    assert done.code == 1
    expected = {"path": "connections.shop-live.on_conflict", "kind": "change", "before": "dead_letter", "after": "widen"}
    assert done.json == {"revision": before, "changes": [expected], "losses": [], "doubts": [], "in_the_browser": []}
    assert "~ connections.shop-live.on_conflict: dead_letter -> widen" in stack.run("plan", str(file)).out
    assert revision(stack) == before


def test_a_plan_tries_the_changed_connections_on_the_latest_events(stack: LocalStack) -> None:
    marker = uuid.uuid4().hex
    for total in (5, 6):
        send(
            stack,
            {"type": "track", "event": marker, "userId": "u", "messageId": uuid.uuid4().hex, "properties": {"total": total}},
        )
    file = changed(
        stack, "tried", where=[{"field": "event", "eq": marker}], primary_key=["order_idd"], column_types={"total": "bigint"}
    )
    done = stack.run("plan", str(file), "--sample", "2", "--json")
    (trial,) = done.json["sample"]
    assert (trial["connection"], trial["events"], trial["taken"]) == ("shop-live", 2, 2)
    assert trial["dead"] == {"missing_key": 2}
    assert "shop-live: takes 2 of the latest 2 events" in stack.run("plan", str(file), "--sample", "2").out
    assert "sample" not in stack.run("plan", str(file), "--json").json


def test_another_value_of_a_secret_is_planned_without_being_shown(stack: LocalStack) -> None:
    done = stack.run("plan", environment={"SHOP_SECRET": "hunter2"})
    assert "sites.shop.keys[1].secret" in done.out
    assert "hunter2" not in done.out


def test_an_applied_file_is_followed_by_every_service_at_once(stack: LocalStack) -> None:
    document = yaml.safe_load(stack.project.read_text())
    document["sites"]["shop"]["keys"].append({"id": "fresh-key"})
    file = stack.folder / "fresh.yaml"
    file.write_text(yaml.safe_dump(document))
    assert stack.run("send", "-", "--key", "fresh-key", stdin=json.dumps(page()).encode()).code == 4
    before = revision(stack)
    done = stack.run("apply", str(file), "--json")
    assert done.code == 0
    assert done.json["applied"] is True
    assert done.json["revision"] > before
    assert stack.run("send", "-", "--key", "fresh-key", stdin=json.dumps(page()).encode()).code == 0


def test_a_bad_file_changes_nothing_and_lists_every_problem(stack: LocalStack) -> None:
    before, file = revision(stack), changed(stack, "bad", mode="steam", where=[{"field": "type", "gtt": 1}])
    for arguments in (["apply"], ["plan"], ["apply", "--dry-run"]):
        done = stack.run(*arguments, str(file))
        assert done.code == 2
        assert "connections.shop-live" in done.err
        assert "connections.shop-live.where[0].gtt" in done.err
    problems = json.loads(stack.run("apply", str(file), "--json").err)["error"]["problems"]
    assert len(problems) == 2
    assert revision(stack) == before


async def test_nothing_is_applied_over_a_revision_nobody_looked_at(stack: LocalStack) -> None:
    document = read_document(stack.project)
    resolved = check_document(document, {})
    async with connect(stack.state.broker_url, "test", patience_seconds=60) as broker:
        found = await stored_project(broker)
        assert found is not None
        with pytest.raises(Conflict):
            await apply_document(broker, {}, {}, found[0] - 1)
        assert await stored_project(broker) == found
        assert await apply_document(broker, document, resolved, found[0]) > found[0]


def test_an_export_is_the_file_as_written_and_can_be_applied(stack: LocalStack) -> None:
    done = stack.run("export")
    assert done.out == stack.project.read_text()
    assert stack.run("export", "--json").json == yaml.safe_load(done.out)
    file = stack.folder / "exported.yaml"
    assert stack.run("export", "--output", str(file)).code == 0
    assert stack.run("plan", str(file), "--exit-code").code == 0


def test_an_export_of_a_file_with_a_secret_in_it_holds_the_secret_nowhere(stack: LocalStack) -> None:
    document = yaml.safe_load(stack.project.read_text())
    document["sites"]["shop"]["keys"].append({"id": "plain", "secret": "hunter2"})
    document["destinations"]["pg"] = {"type": "postgres", "dsn": f"postgresql://me:in-clear@127.0.0.1:{free_port()}/none"}
    file = stack.folder / "plain.yaml"
    file.write_text(yaml.safe_dump(document))
    assert stack.run("apply", str(file), "--yes").code == 0
    done = stack.run("export")
    assert "hunter2" not in done.out
    assert "in-clear" in done.out, "it could not be applied without"
    assert "destinations.pg.dsn is printed with its secret" in done.err
    masked = stack.run("export", "--masked")
    assert "in-clear" not in masked.out + masked.err
    assert "${SHOP_SECRET" in done.out
    assert yaml.safe_load(done.out)["sites"]["shop"]["keys"][-1]["secret"].startswith("sha256:")


def test_what_is_removed_is_said_and_needs_a_yes_and_can_be_rolled_back(stack: LocalStack) -> None:
    document = yaml.safe_load(stack.project.read_text())
    del document["connections"]["shop-live"]
    file = stack.folder / "less.yaml"
    file.write_text(yaml.safe_dump(document))
    before = revision(stack)
    planned = stack.run("plan", str(file))
    assert "! connections.shop-live: the connection goes; no event waits for it" in planned.out
    refused = stack.run("apply", str(file))
    assert refused.code == 2
    assert "--yes" in refused.err
    assert revision(stack) == before
    assert stack.run("apply", str(file), "--yes").code == 0

    entries = stack.run("history", "--json").json
    assert [entries[0]["revision"], entries[1]["revision"]] == [revision(stack), before]
    assert [change["path"] for change in entries[0]["changes"]] == ["connections.shop-live"]
    assert "@" in entries[0]["applied_by"]
    assert "- connections.shop-live" in stack.run("history").out

    assert stack.run("rollback", str(before)).code == 0
    assert [entry["rollback_to"] for entry in stack.run("history", "--json").json][:2] == [before, None]
    assert f"rollback to {before}: + connections.shop-live" in stack.run("history").out
    assert stack.run("plan", "--exit-code").code == 0
    assert stack.run("export").out == stack.project.read_text()
    unknown = stack.run("rollback", "999999")
    assert unknown.code == 2
    assert "known: " in unknown.err


def test_a_destination_that_does_not_open_is_warned_of_when_it_is_applied(stack: LocalStack) -> None:
    document = yaml.safe_load(stack.project.read_text())
    document["destinations"]["pg"] = {"type": "postgres", "dsn": f"postgresql://nobody@127.0.0.1:{free_port()}/none"}
    file = stack.folder / "pg.yaml"
    file.write_text(yaml.safe_dump(document))
    done = stack.run("apply", str(file))
    assert done.code == 0
    assert "warning: destinations.pg: " in done.err


def test_a_check_tries_every_destination_or_the_one_named(stack: LocalStack) -> None:
    every = stack.run("check", "--json")
    assert every.code == 0, every.out
    assert {found["destination"] for found in every.json} == {"warehouse", "live"}
    one = stack.run("check", "live", "--json").json
    assert [step["step"] for step in one[0]["steps"]] == ["reach", "create", "write", "read", "replace", "drop"]
    unknown = stack.run("check", "wahrehouse")
    assert unknown.code == 2
    assert "warehouse" in unknown.err


def test_a_check_of_a_destination_that_is_away_fails_and_says_why(stack: LocalStack) -> None:
    file = stack.folder / "away.yaml"
    dsn = f"postgresql://user:hunter2@127.0.0.1:{free_port()}/db"
    file.write_text(yaml.safe_dump({"destinations": {"pg": {"type": "postgres", "dsn": dsn}}}))
    done = stack.run("check", "--file", str(file), "--json")
    assert done.code == 1
    assert any(not step["ok"] and step["message"] for step in done.json[0]["steps"])
    assert "hunter2" not in done.out + done.err
