"""What `penstock status` says of services, and when nothing waits any more."""

from __future__ import annotations

import time

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loader.watch.stop import OPENING
from penstock.command.verbs.status import _show
from penstock.control.metrics import Scrape, _samples
from penstock.control.status.rest import ILL_SECONDS, START_SECONDS, STILL_SECONDS, Rest
from penstock.control.status.services import not_answering, said_by_services
from penstock.control.status.status import ConnectionStatus, Status
from penstock.stack.home import ProcessState, StackState
from penstock.terminal.screen import Screen

LOADER = ProcessState(name="loader", pid=1, started=1, restarts=1, state="not ready", admin_url="http://127.0.0.1:9466")
STACK = StackState(home="/h", supervisor=LOADER, broker_url="", ingest_url="", monitor_url="", started_at="", processes=[LOADER])


def test_a_process_that_is_not_ready_says_why_and_not_that_it_died_long_ago_and_services_have_names() -> None:
    scrape = Scrape("http://127.0.0.1:9466", problems={"broker": "does not answer"})
    assert said_by_services(STACK, [scrape]) == {
        "process loader": "not ready; broker: does not answer; its log says why: /h/logs/loader.log",
        "loader (http://127.0.0.1:9466)": "not ready",
        "loader (http://127.0.0.1:9466) broker": "does not answer",
    }
    silent = [Scrape("http://127.0.0.1:9466", error="refused"), Scrape("http://elsewhere", error="refused")]
    assert list(not_answering(STACK, silent)) == ["loader (http://127.0.0.1:9466)", "http://elsewhere"]


def test_a_process_that_keeps_dying_is_told_although_it_is_ready_now() -> None:
    loader = msgspec.structs.replace(LOADER, restarts=3, state="ready", died_at=time.time())
    said = said_by_services(msgspec.structs.replace(STACK, processes=[loader]), [])
    assert said == {"process loader": "ready; it died 3 times; its log says why: /h/logs/loader.log"}
    long_ago = msgspec.structs.replace(loader, died_at=1.0)
    assert said_by_services(msgspec.structs.replace(STACK, processes=[long_ago]), []) == {}


def of(
    *, waiting: int = 0, settled: bool = True, delivered: int = 0, unrouted: int = 0, state: str = "ok", why: str = ""
) -> Status:
    line = ConnectionStatus(connection="c", state=state, why=why, waiting_events=waiting, settled=settled, delivered=delivered)
    return Status(revision=1, connections=[line], unrouted=unrouted)


@pytest.mark.parametrize(
    ("found", "done"),
    [(of(), True), (of(settled=False), False), (of(waiting=1), False), (of(unrouted=1), False)],
)
def test_waiting_ends_when_nothing_waits_and_the_counts_are_settled(found: Status, done: bool) -> None:
    assert Rest().is_reached(found, 0.0) is done


def test_waiting_ends_for_counts_that_stay_wrong_and_not_while_they_move_or_anything_waits() -> None:
    rest = Rest()
    assert not rest.is_reached(of(settled=False), 0.0)
    assert not rest.is_reached(of(settled=False, delivered=1), 5.0)
    assert not rest.is_reached(of(settled=False, delivered=1), 5.0 + STILL_SECONDS - 1)
    assert rest.is_reached(of(settled=False, delivered=1), 5.0 + STILL_SECONDS)
    assert not rest.is_reached(of(waiting=1, delivered=1), 100.0)


@pytest.mark.parametrize("starting", [of(state="failing", why=OPENING), of(state="unknown", why="no loader works on it")])
def test_waiting_includes_the_start_of_a_loader_for_a_while(starting: Status) -> None:
    rest = Rest()
    assert not rest.is_reached(starting, 1.0)
    assert not rest.is_reached(starting, START_SECONDS)
    assert rest.is_reached(of(), START_SECONDS)
    assert not rest.is_reached(starting, 1.0 + START_SECONDS)
    assert rest.is_reached(starting, 1.0 + START_SECONDS + ILL_SECONDS), "that is no start any more"


def test_waiting_includes_a_trouble_that_goes_by_itself_and_ends_with_one_that_stays() -> None:
    """The services were asked before the last event was loaded, and the broker behind it."""
    rest = Rest()
    assert not rest.is_reached(of(state="failing", why="it went back, and is loaded again"), 0.0)
    assert rest.is_reached(of(), 0.5)
    rest = Rest()
    assert not rest.is_reached(of(state="failing", why="wrong password"), 0.0)
    assert not rest.is_reached(of(state="failing", why="wrong password"), ILL_SECONDS - 1)
    assert rest.is_reached(of(state="failing", why="wrong password"), ILL_SECONDS)


@pytest.mark.parametrize("label", ["shop", 'a "quoted" one', "back\\slash", "new\nline", "brace}, comma", ""])
def test_metrics_are_read_as_the_library_that_writes_them_reads_them(label: str) -> None:
    registry = CollectorRegistry()
    Gauge("plain", "no labels", registry=registry).set(0.25)
    counter = Counter("refused", "with labels", ("site", "key"), registry=registry)
    counter.labels(label, "k").inc(3)
    counter.labels("other", label).inc(float("inf"))
    text = generate_latest(registry).decode()
    expected: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            expected.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    assert _samples(text) == expected


def test_a_row_of_eighty_columns_shows_whole_sums_and_refusals_say_how_many_more_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    line = ConnectionStatus(connection="shop-wh", state="catching up", received=5, replayed=3, delivered=7, dead=1)
    refused = {f"code {number}": 10 - number for number in range(7)}
    lost, left = {f"evicted, {n}": 1 for n in range(6)}, {"reason forgotten, site shop": 3}
    _show(Screen(), Status(revision=1, connections=[line], refused=refused, dead_lost=lost, edge_dropped=left))
    out = capsys.readouterr().out
    assert next(each.split() for each in out.splitlines() if "shop-wh" in each) == [
        *("shop-wh", "catching", "up", "5", "+", "3", "7", "0", "1", "0")
    ]
    assert {"received", "delivered", "dropped", "dead", "waiting"} < {*out.split()}
    assert "edge: left out 3 events since its start: reason forgotten, site shop" in out
    assert "edge: refused 9 requests more, of 2 other kinds" in out
    assert "1 dead letter of 1 other lost" in out
