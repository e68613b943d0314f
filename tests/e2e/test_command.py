"""Every subcommand against one real local stack with the sample project, as a user runs it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.command import cli
from penstock.control.project.projects import apply_document, check_document, read_document
from shared.errors import Conflict
from shared.jetstream.broker import connect
from shared.project.snapshot import stored_project
from tests.support.command import Done, LocalStack, local_stack, wait_until
from tests.support.nats import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("command")) as stack:
        stack.up()
        yield stack


@pytest.fixture
def stack(running: LocalStack) -> Iterator[LocalStack]:
    """The stack with the sample project, whatever a test applies."""
    yield running
    # in this process: one more process for each test would be a quarter of the time all of them take
    if cli.run(["plan", str(running.project), "--home", str(running.home.folder), "--exit-code"]) != 0:
        assert running.run("apply", "--yes").code == 0


def changed(stack: LocalStack, name: str, **changes: Any) -> Path:
    """A copy of the project in which connection `shop-live` differs."""
    document = yaml.safe_load(stack.project.read_text())
    document["connections"]["shop-live"].update(changes)
    file = stack.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def send(stack: LocalStack, *events: object) -> Done:
    lines = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return stack.run("send", "-", "--key", "shop-web", "--json", stdin=b"\n".join(lines))


def page(**fields: Any) -> dict[str, Any]:
    return {"type": "page", "name": "Tea", "userId": "u", "messageId": uuid.uuid4().hex, **fields}


def revision(stack: LocalStack) -> int:
    return int(stack.run("status", "--json").json["revision"])


# -- the project


def test_the_applied_file_needs_no_change(stack: LocalStack) -> None:
    done = stack.run("plan", "--exit-code")
    assert (done.code, done.out.strip()) == (0, "nothing to change")


def test_a_plan_names_what_differs_and_changes_nothing(stack: LocalStack) -> None:
    before, file = revision(stack), changed(stack, "widen", on_conflict="widen")
    done = stack.run("plan", str(file), "--json", "--exit-code")
    assert done.code == 1
    expected = {"path": "connections.shop-live.on_conflict", "kind": "change", "before": "dead_letter", "after": "widen"}
    assert done.json == {"revision": before, "changes": [expected], "losses": [], "doubts": []}
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
    async with connect(stack.state.broker_url, "test", patience_seconds=10) as broker:
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
    assert [step["step"] for step in one[0]["steps"]] == ["reach", "create", "write", "read", "drop"]
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


# -- events


def test_sent_events_are_counted_and_become_rows(stack: LocalStack) -> None:
    name = uuid.uuid4().hex
    done = send(stack, page(name=name), {"type": "page"}, b'{"cut', page(name=name))
    assert done.code == 1
    assert {key: done.json[key] for key in ("events", "accepted", "rejected", "refused")} == {
        "events": 4, "accepted": 2, "rejected": 1, "refused": 1,
    }  # fmt: skip
    assert [(reject["line"], reject["reason"]) for reject in done.json["rejects"]] == [(2, "missing_id"), (3, "invalid_json")]
    stack.wait_for_rows(f"SELECT count(*) FROM shop.pages WHERE name = '{name}'", 2)
    stack.wait_for_rows(f"SELECT count(*) FROM live.events WHERE name = '{name}'", 2)


def test_a_file_is_sent_with_the_only_open_key(stack: LocalStack) -> None:
    file = stack.folder / "events.ndjson"
    file.write_text("".join(json.dumps(page()) + "\n" for _ in range(450)))
    done = stack.run("send", str(file))
    assert (done.code, done.out.strip()) == (0, "450 events: 450 accepted, 0 rejected, 0 refused")


def test_a_wrong_key_and_a_missing_file_say_what_to_do(stack: LocalStack) -> None:
    wrong = stack.run("send", "-", "--key", "nobody", stdin=json.dumps(page()).encode())
    assert wrong.code == 4
    assert "--key" in wrong.err
    missing = stack.run("send", "missing.ndjson")
    assert missing.code == 4
    assert "missing.ndjson" in missing.err


def test_a_tail_shows_whole_events_with_what_the_server_knows(stack: LocalStack) -> None:
    first, second = page(), page()
    send(stack, first, second)
    done = stack.run("tail", "shop-live", "--last", "2", "--json")
    events = [json.loads(line)["event"] for line in done.out.splitlines()]
    assert [event["messageId"] for event in events] == [first["messageId"], second["messageId"]]
    assert events[0]["context"]["ip"] == "127.0.0.1"
    assert "receivedAt" in events[0]
    assert first["messageId"] in stack.run("tail", "--last", "2").out


def test_a_tail_follows_what_comes(stack: LocalStack) -> None:
    with stack.start("tail", "shop", "--last", "1", "--follow", "--json") as follower:
        assert follower.stdout is not None
        event = page()
        # the first line says that it reads; what comes then is new
        send(stack, page())
        follower.stdout.readline()
        send(stack, event)
        for line in follower.stdout:
            if json.loads(line)["event"]["messageId"] == event["messageId"]:
                break
        follower.terminate()


def test_a_tail_of_nothing_says_what_there_is(stack: LocalStack) -> None:
    done = stack.run("tail", "shoop")
    assert done.code == 2
    assert "shop-warehouse" in done.err


def test_a_replay_can_be_counted_before_it_is_sent(stack: LocalStack) -> None:
    name = uuid.uuid4().hex
    send(stack, page(name=name), page(name=name), page())
    where = f"{{field: name, eq: {name}}}"
    arguments = ["replay", "--site", "shop", "--from", "10m", "--where", where, "--connection", "shop-warehouse", "--json"]
    assert stack.run(*arguments, "--dry-run").json["connections"]["shop-warehouse"]["events"] == 2
    stack.wait_for_rows(f"SELECT count(*) FROM shop.pages WHERE name = '{name}'", 2)
    done = stack.run(*arguments, "--id", name)
    assert done.json["connections"]["shop-warehouse"]["events"] == 2
    # merged on the message id: loaded again, not doubled
    send(stack, page(name=f"{name}-after"))
    stack.wait_for_rows(f"SELECT count(*) FROM shop.pages WHERE name = '{name}-after'", 1)
    assert stack.query(f"SELECT count(*) FROM shop.pages WHERE name = '{name}'") == [(2,)]


# -- dead letters


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


def test_rows_can_be_asked_for_while_events_flow(stack: LocalStack) -> None:
    name = uuid.uuid4().hex
    send(stack, page(name=name))
    stack.wait_for_rows(f"SELECT count(*) FROM shop.pages WHERE name = '{name}'", 1)
    done = stack.run("query", "--destination", "warehouse", "--json", f"SELECT name FROM pages WHERE name = '{name}'")
    assert done.code == 0, done.err
    assert done.json["rows"] == [{"name": name}]


# -- status


def test_the_status_has_a_line_for_every_connection(stack: LocalStack) -> None:
    name = uuid.uuid4().hex
    send(stack, page(name=name))
    stack.wait_for_rows(f"SELECT count(*) FROM shop.pages WHERE name = '{name}'", 1)
    done = stack.run("status", "--json")
    assert done.code == 0, done.out
    lines = {line["connection"]: line for line in done.json["connections"]}
    assert set(lines) == {"shop-warehouse", "shop-live"}
    warehouse = lines["shop-warehouse"]
    assert warehouse["state"] == "ok"
    assert warehouse["received"] >= 1
    assert warehouse["delivered"] >= 1
    assert done.json["edge_accepted"] >= 1
    assert "shop-live" in stack.run("status").out


def test_a_broker_alone_tells_all_counts(stack: LocalStack) -> None:
    name = uuid.uuid4().hex
    send(stack, page(name=name))
    stack.wait_for_rows(f"SELECT count(*) FROM shop.pages WHERE name = '{name}'", 1)
    assert stack.run("status", "--wait", "60").code == 0
    nowhere = ["--home", str(stack.folder / "elsewhere"), "--url", stack.state.broker_url]

    def told() -> bool:
        return all(
            each["received"] + each["replayed"] >= each["delivered"] > 0 and each["last_load_at"]
            for each in stack.run("status", *nowhere, "--json").json["connections"]
        )

    wait_until(told)  # the time of the last load is stored a moment after it


def test_a_service_that_does_not_answer_is_named(stack: LocalStack) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = stack.run("status", "--metrics", url, "--json")
    assert done.code == 1
    assert url in done.json["not_answering"]


def test_benchmarks_are_listed(stack: LocalStack) -> None:
    assert "edge" in stack.run("bench", "--json").json
    assert stack.run("bench", "nothing").code == 2
