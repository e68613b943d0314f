"""The local stack, started and hurt with the real command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.command import COMMAND, LocalStack, is_running, local_stack, wait_until
from tests.support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    with local_stack(tmp_path) as made:
        yield made


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def send_pages(stack: LocalStack, prefix: str, count: int) -> None:
    lines = [json.dumps({"type": "page", "name": prefix, "messageId": f"{prefix}-{n}", "userId": "u"}) for n in range(count)]
    done = stack.run("send", "-", "--key", "shop-web", stdin="\n".join(lines).encode())
    assert done.code == 0, done.err


def test_a_detached_stack_runs_on_says_where_and_stops_in_order(stack: LocalStack) -> None:
    base = free_port()
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", base + 1))
        listener.listen()
        refused = stack.run("up", "--detach", "--port-base", str(base))
    assert refused.code == 4
    assert f"port {base + 1} for the broker is taken" in refused.err
    done = stack.run("up", "--detach", "--port-base", str(base), "--json")
    assert done.code == 0, done.err
    state = done.json
    assert state["phase"] == "ready"
    listeners = [each.laddr for each in psutil.net_connections("tcp4") if each.status == "LISTEN"]
    assert [address[0] for address in listeners if address and address[1] == base] == ["127.0.0.1"]
    names = {process["name"] for process in state["processes"]}
    assert names == {"nats", "ingest", "router", "functions_runtime", "loader", "connector_runner"}
    assert answers(state["ingest_url"] + "/v1/projects/none/settings") or answers(state["processes"][1]["admin_url"] + "/ready")
    pids = stack.pids
    assert all(is_running(pid) for pid in pids.values())

    again = stack.run("up", "--detach")
    assert again.code == 4
    assert "already" in again.err
    assert state["ingest_url"] in again.err
    assert "penstock down" in again.err

    stopped = stack.run("down", "--json")
    assert stopped.json["stopped"] is True
    assert not any(is_running(pid) for pid in pids.values())
    assert not stack.home.state_file.exists()
    for service in ("ingest", "router", "loader"):
        assert '"stopped"' in (stack.home.logs / f"{service}.log").read_text()


def test_a_killed_service_is_started_again_and_no_event_is_lost(stack: LocalStack) -> None:
    stack.up(environment={"PENSTOCK_INGEST_PROCESSES": "2"})
    frozen = psutil.Process(stack.pids["ingest"]).children()[1]
    frozen.suspend()
    wait_until(lambda: "ingest: process 1: service: does not answer" in stack.state.problem, stack.logs)
    assert next(each.state for each in stack.state.processes if each.name == "ingest") == "ready", "the other one serves"
    frozen.resume()
    wait_until(lambda: stack.state.problem == "", stack.logs)
    for name in ("router", "loader", "ingest", "nats"):
        send_pages(stack, f"before-{name}", 20)
        pid = stack.pids[name]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda name=name, pid=pid: stack.pids[name] not in (0, pid), stack.logs)  # type: ignore[misc]
        process = next(process for process in stack.state.processes if process.name == name)
        assert process.restarts == 1
        send_pages(stack, f"after-{name}", 20)
    stack.wait_for_rows("SELECT count(*) FROM shop.pages", 160)
    assert stack.query("SELECT count(*), count(DISTINCT id) FROM shop.pages") == [(160, 160)]


def test_nothing_outlives_a_killed_supervisor_and_the_next_stack_goes_on(stack: LocalStack) -> None:
    stack.up()
    send_pages(stack, "first", 50)
    pids = stack.pids
    os.kill(pids["supervisor"], signal.SIGKILL)
    wait_until(lambda: not is_running(pids["nats"]))
    # the services drain, which takes them up to twenty seconds without a broker; the next start does not wait for that
    assert stack.home.state_file.exists()
    assert stack.run("status").code == 4
    stack.up()
    assert not any(is_running(pid) for pid in pids.values())
    stack.wait_for_rows("SELECT count(*) FROM shop.pages", 50)
    assert stack.query("SELECT count(*), count(DISTINCT id) FROM shop.pages") == [(50, 50)]


def test_a_stack_left_by_a_killed_supervisor_can_be_taken_down(stack: LocalStack) -> None:
    stack.up()
    pids = stack.pids
    os.kill(pids["loader"], signal.SIGSTOP)  # it can hear nothing now
    os.kill(pids["supervisor"], signal.SIGKILL)
    wait_until(lambda: not is_running(pids["nats"]))
    done = stack.run("down", timeout=120)
    assert "left behind" in done.out
    assert not any(is_running(pid) for pid in pids.values())


def test_in_the_foreground_an_interrupt_stops_everything_in_order(stack: LocalStack) -> None:
    with stack.start("up", "--port-base", str(free_port()), "--project", str(stack.project)) as up:
        wait_until(lambda: (state := stack.home.read()) is not None and state.phase == "ready", stack.logs)
        pids = stack.pids
        up.send_signal(signal.SIGINT)
        out, _ = up.communicate(timeout=100)
        assert up.returncode == 0, out.decode()
        text = out.decode()
        assert "Traceback" not in text
        order = [text.index(f"{name}: stopped") for name in ("ingest", "router", "loader", "nats")]
        assert order == sorted(order)
        assert not any(is_running(pid) for pid in pids.values())


def test_a_terminal_that_goes_away_stops_everything_in_order(stack: LocalStack) -> None:
    """Nothing can be printed any more then; a stack that failed on that would run on, and nobody could stop it."""
    master, slave = os.openpty()
    up = subprocess.Popen(
        [*COMMAND, "up", "--port-base", str(free_port()), "--project", str(stack.project)],
        cwd=stack.folder, env=stack.environment({}), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while b"stays up" not in seen:
        seen += os.read(master, 65_536)
    pids = stack.pids
    os.close(master)
    up.send_signal(signal.SIGHUP)  # what the kernel does where the terminal is the controlling one
    up.wait(60)
    assert not any(is_running(pid) for pid in pids.values())
    for service in ("ingest", "router", "loader"):
        assert '"stopped"' in (stack.home.logs / f"{service}.log").read_text()


def test_a_service_with_wrong_settings_ends_the_start_and_is_quoted(stack: LocalStack) -> None:
    done = stack.run("up", "--detach", "--port-base", str(free_port()), environment={"PENSTOCK_EVENTS_MAX_BYTES": "lots"})
    assert done.code == 4
    assert "PENSTOCK_EVENTS_MAX_BYTES" in done.err
    assert "exit code 78" in done.err
    assert not stack.home.state_file.exists()
    assert not stack.home.is_running()


def test_the_demo_arrives_whole_and_its_mistakes_are_kept(stack: LocalStack) -> None:
    done = stack.run(
        "up",
        "--port-base",
        str(free_port()),
        "--project",
        str(stack.project),
        "--demo",
        "--exit-after-demo",
        "--json",
        timeout=150,
    )
    assert done.code == 0, done.err + stack.logs()
    # the plan's result, the stack's state, then the demo's report, one JSON document after the other
    decoder, rest, documents = json.JSONDecoder(), done.out.strip(), []
    while rest:
        document, end = decoder.raw_decode(rest)
        documents.append(document)
        rest = rest[end:].strip()
    report = documents[-1]
    assert report["loaded"], stack.logs()
    sent, rows = report["sent"], {f"{each['schema']}.{each['table']}": each["rows"] for each in report["tables"]}
    assert sent["events"] == 4000
    assert sent["accepted"] + sent["rejected"] + sent["refused"] == sent["events"]
    calls = ("tracks", "pages", "identifies", "groups", "aliases")
    assert sum(rows[f"shop.{table}"] for table in calls) == sent["accepted"]
    dead = {(each["stage"], each["reason"]): each["count"] for each in report["dead"]}
    assert sum(count for (stage, _), count in dead.items() if stage == "ingest") == sent["rejected"] > 0
    assert rows["live.events"] + dead["loader", "type_conflict"] == rows["shop.tracks"] + rows["shop.pages"]
    drifted = stack.query("SELECT count(*) FROM shop.order_completed WHERE total IS NULL AND _unmapped_data LIKE '%EUR%'")
    assert drifted[0][0] > 0
    assert stack.query(
        "SELECT count(*) FROM shop.price_checked WHERE price IS NOT NULL" if _has_price(stack) else "SELECT 0"
    ) == [(0,)]
    assert not stack.home.is_running()


def _has_price(stack: LocalStack) -> bool:
    """NaN becomes null, and a column nobody has a value for is not made."""
    found = stack.query(
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'shop' "
        "AND table_name = 'price_checked' AND column_name = 'price'"
    )
    return bool(found[0][0])
