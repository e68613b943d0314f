"""Subcommands about events, as a user runs them: send, tail, replay, query, status."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.e2e.command.acts import page, send
from tests.support.command import LocalStack, wait_until
from tests.support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


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


def test_rows_can_be_asked_for_while_events_flow(stack: LocalStack) -> None:
    name = uuid.uuid4().hex
    send(stack, page(name=name))
    stack.wait_for_rows(f"SELECT count(*) FROM shop.pages WHERE name = '{name}'", 1)
    done = stack.run("query", "--destination", "warehouse", "--json", f"SELECT name FROM pages WHERE name = '{name}'")
    assert done.code == 0, done.err
    assert done.json["rows"] == [{"name": name}]


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
