"""`penstock up --cluster 3 --tls` with the real command: users, TLS, two of each service; a killed node and a killed service are replaced."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import LocalStack, is_running, local_stack, wait_until
from tests.support.ports import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROCESSES = {
    *("nats-1", "nats-2", "nats-3"),
    *("ingest", "ingest-2", "router", "router-2", "functions_runtime", "functions_runtime-2"),
    *("loader", "loader-2", "connector_runner", "connector_runner-2"),
    "prometheus",
}
PORTS = 22


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    with local_stack(tmp_path) as made:
        yield made


def send_pages(stack: LocalStack, prefix: str, count: int) -> None:
    lines = [json.dumps({"type": "page", "name": prefix, "messageId": f"{prefix}-{n}", "userId": "u"}) for n in range(count)]
    done = stack.run("send", "-", "--key", "shop-web", stdin="\n".join(lines).encode())
    assert done.code == 0, done.err


def watched(page: str) -> list[str]:
    """Returns the job of each process that Prometheus reads."""
    with urllib.request.urlopen(f"{page}/api/v1/query?query=up==1", timeout=30) as answer:
        return [each["metric"]["job"] for each in json.load(answer)["data"]["result"]]


def kill(stack: LocalStack, *names: str) -> None:
    """Kills processes and waits until the supervisor has started them again and they are ready."""
    before = stack.pids
    for name in names:
        os.kill(before[name], signal.SIGKILL)
    for name in names:
        wait_until(lambda name=name: stack.pids[name] not in (0, before[name]), stack.logs)  # type: ignore[misc]
    wait_until(lambda: all(each.state == "ready" for each in stack.state.processes), stack.logs)


def test_a_cluster_of_processes_takes_events_whatever_is_killed(stack: LocalStack) -> None:
    arguments = ("up", "--detach", "--cluster", "3", "--tls", "--port-base", str(free_ports(PORTS)))
    assert stack.run("up", "--detach", "--tls").code == 2, "TLS is for the brokers of a cluster"
    done = stack.run(*arguments, "--project", str(stack.project))
    assert done.code == 0, done.out + done.err + stack.logs()
    state = stack.state
    assert {process.name for process in state.processes} == PROCESSES
    assert state.broker_url.count("tls://127.0.0.1:") == 3
    assert len(state.more_ingest_urls) == 1
    secrets = json.loads(stack.home.passwords.read_text()).values()
    shown = done.out + done.err + stack.home.state_file.read_text() + stack.logs()
    assert not [secret for secret in secrets if secret in shown], "a password is shown"
    assert stack.home.passwords.stat().st_mode & 0o077 == 0

    send_pages(stack, "first", 50)
    for names in (("nats-1", "loader", "ingest"), ("nats-2", "router", "ingest-2")):
        kill(stack, *names)
        send_pages(stack, f"after-{names[0]}", 20)
    stack.wait_for_rows("SELECT count(*) FROM shop.pages", 90)
    assert stack.query("SELECT count(*), count(DISTINCT id) FROM shop.pages") == [(90, 90)]
    status = stack.run("status", "--json")
    assert {each["connection"]: each["state"] for each in status.json["connections"]}["shop-warehouse"] == "ok", status.out
    assert stack.run("apply", str(stack.project)).code == 0
    page = f"http://127.0.0.1:{int(arguments[arguments.index('--port-base') + 1]) + PORTS - 1}"
    wait_until(lambda: len(watched(page)) == 10, stack.logs)
    assert {each.partition("-")[2] for each in watched(page)} == {
        name for name in PROCESSES if "-" not in name and name != "prometheus"
    }

    pids = stack.pids
    assert stack.run("down", "--json").json["stopped"] is True
    assert not any(is_running(pid) for pid in pids.values())
    alone = stack.run("up", "--detach", "--port-base", arguments[-1])
    assert alone.code == 4
    assert "is the home of a cluster" in alone.err
