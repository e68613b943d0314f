"""Which facts are faults, for whom, and in which words; the sample of dead letters holds nothing of their bodies."""

from __future__ import annotations

from typing import Any

import click
import pytest

from penstock.command.cli import cli
from router.alerts.contract import KINDS, AlertRules, Kind
from router.alerts.dead import MOST_REASONS, MOST_RUNS, OTHERS, add
from router.alerts.judge.facts import DeadRun, Facts, OfConnection, OfLine, OfSite
from router.alerts.judge.faults import DISABLED, REMOVED, UNREPORTED, UNWATCHED, ending_of, faults_of
from router.alerts.judge.ledger import Kept
from router.alerts.judge.volume import History
from router.alerts.registry import CHANNELS, parse_alert
from shared.errors import ConfigError
from shared.events.dead import DeadLetter
from shared.reading.units import Duration

NOW = 1_800_000_000.0
CONNECTION = OfConnection(site="shop", destination="wh", state="ok")
DAY = 86_400.0


def history(*counts: int) -> History:
    return History(hour=int(NOW // 3600), began_at=NOW, accepted=0, counts=list(counts))


def one_of_each() -> Facts:
    usual = [100] * 24 * 7
    return Facts(
        now=NOW,
        connections={
            "a": OfConnection(
                site="shop", destination="wh", state="failing", why="refused", oldest_seconds=7200.0, queues={"DELIVER": 0.9}
            ),
            "b": OfConnection(site="app", destination="lake", state="ok", oldest_seconds=30.0, queues={"DELIVER": 0.1}),
        },
        sites={"shop": OfSite(enabled=True, history=history(900, *usual), last_at=NOW - 3600)},
        syncs={"s": OfLine(state="failed", good=False, why="no login")},
        feeds={"f": OfLine(state="failing", good=False, why="no broker")},
        dead={"loader a": DeadRun(stage="loader", name="a", since=NOW, last_at=NOW, letters=3, reasons={"too_deep": 3})},
        streams={"DEAD": (0.85, "it fills")},
        services={"ingest: journal": "nearly full"},
        disks={"the disk of /data": (0.95, "1 GiB free")},
        certificates={"wh.example.com:443": NOW + DAY},
    )


def test_every_kind_has_a_fault_and_a_title() -> None:
    found = faults_of(one_of_each(), AlertRules())
    assert {fault.kind for fault in found} == set(KINDS)
    assert len({fault.key for fault in found}) == len(found)
    assert all(fault.title and fault.why for fault in found)
    assert all(fault.key.partition(" ")[0] == fault.kind for fault in found)


@pytest.mark.parametrize("kind", KINDS)
def test_an_alert_tells_only_what_it_is_asked_for(kind: Kind) -> None:
    assert {fault.kind for fault in faults_of(one_of_each(), AlertRules(when=[kind]))} == {kind}


def test_names_of_connections_and_sites_narrow_what_is_told() -> None:
    of_connection: list[Kind] = ["connection", "freshness", "dead", "silence"]
    assert {fault.key for fault in faults_of(one_of_each(), AlertRules(when=of_connection, connections=["b"]))} == {
        "silence shop"
    }
    assert faults_of(one_of_each(), AlertRules(when=of_connection, sites=["app"])) == []
    assert len(faults_of(one_of_each(), AlertRules(when=of_connection, sites=["shop"]))) == 4


@pytest.mark.parametrize("state", ["ok", "idle", "disabled", "catching up", "late"])
def test_states_that_need_no_person_are_no_fault(state: str) -> None:
    facts = Facts(now=NOW, connections={"a": OfConnection(site="shop", destination="wh", state=state)})
    assert faults_of(facts, AlertRules()) == []


def test_freshness_is_measured_beside_the_batch_period() -> None:
    facts = Facts(
        now=NOW,
        connections={"a": OfConnection(site="s", destination="wh", state="ok", period_seconds=3600, oldest_seconds=4000.0)},
    )
    assert faults_of(facts, AlertRules(freshness=Duration(600))) == []
    assert [fault.kind for fault in faults_of(facts, AlertRules(freshness=Duration(300)))] == ["freshness"]


def ending(facts: Facts, key: str, rules: AlertRules | None = None, since: float = NOW - 600) -> str | None:
    """Returns why a fault that was told ended."""
    kind: Any = key.partition(" ")[0]
    return ending_of(facts, rules or AlertRules(), key, Kept(kind=kind, title="t", since=since, fired=since))


def test_a_fault_that_is_no_longer_there_got_well_only_where_the_facts_say_so() -> None:
    facts = one_of_each()
    for key in ("connection b", "freshness b", "queue DELIVER of b", "queue stream EVENTS", "sync s", "feed f", "dead loader b"):
        assert ending(facts, key) == "", key
    for key in ("connection x", "freshness x", "queue DELIVER of x", "silence x", "volume x", "sync x", "feed x"):
        assert ending(facts, key) == REMOVED, key
    only = AlertRules(when=["disk"])
    assert ending(facts, "connection b", only) == ending(facts, "dead loader a", only) == UNWATCHED
    assert ending(facts, "connection b", AlertRules(connections=["a"])) == UNWATCHED
    assert ending(facts, "freshness b", AlertRules(sites=["shop"])) == UNWATCHED
    assert ending(facts, "silence shop", AlertRules(sites=["app"])) == UNWATCHED
    assert ending(facts, "sync s", AlertRules(syncs=["t"])) == UNWATCHED
    off = Facts(
        now=NOW,
        connections={"a": OfConnection(site="shop", destination="wh", state="disabled")},
        sites={"shop": OfSite(enabled=False, history=history(), last_at=NOW)},
        syncs={"s": OfLine(state="disabled", good=True)},
    )
    assert ending(off, "connection a") == ending(off, "silence shop") == ending(off, "sync s") == DISABLED


def test_a_run_that_goes_on_does_not_end_the_fault_of_the_one_that_failed() -> None:
    running = Facts(now=NOW, syncs={"s": OfLine(state="running", good=True)})
    assert ending(running, "sync s") is None


def test_only_an_event_ends_a_silence_and_only_a_known_hour_an_unusual_one() -> None:
    def shop(last_at: float, *counts: int) -> Facts:
        return Facts(now=NOW, sites={"shop": OfSite(enabled=True, history=history(*counts), last_at=last_at)})

    assert ending(shop(NOW - 3600), "silence shop") is None
    assert ending(shop(0.0), "silence shop") is None, "EVENTS was emptied"
    assert ending(shop(NOW - 5), "silence shop") == ""
    assert ending(shop(NOW, -1, 5), "volume shop") is None
    assert ending(shop(NOW, 5), "volume shop") == ""


def test_a_part_that_nobody_reports_any_more_did_not_get_well() -> None:
    alive = Facts(now=NOW, running=frozenset({"ingest"}), disks={"the disk / on a": (0.1, "")})
    assert ending(alive, "service ingest: journal") == ending(alive, "disk the disk / on a") == ""
    assert ending(alive, "service loader: x") == ending(alive, "disk the disk / on b") == UNREPORTED


def test_each_fault_names_a_command_of_ours_and_all_names_that_a_silence_may_use() -> None:
    found = {fault.key: fault for fault in faults_of(one_of_each(), AlertRules())}
    assert found["connection a"].next == "penstock check wh"
    assert found["dead loader a"].next == "penstock dead list --stage loader --connection a"
    assert found["sync s"].next == "penstock sync logs s"
    assert set(found["queue DELIVER of a"].names) == {"a", "shop", "wh"}
    assert found["dead loader a"].names == ("a",)
    for fault in found.values():
        words = [word for word in fault.next.split() if not word.startswith("--")]
        if words:
            command: Any = cli
            for word in words[1:]:
                if not isinstance(command, click.Group):
                    break
                command = command.get_command(click.Context(command), word)
                assert command is not None, fault.next


def test_a_certificate_that_cannot_be_looked_at_is_unknown_and_one_that_ends_is_told_in_time() -> None:
    facts = Facts(now=NOW, certificates={"a:443": None, "b:443": NOW + 10 * DAY, "c:443": NOW + 20 * DAY, "d:443": NOW - 5})
    found = {fault.key: fault for fault in faults_of(facts, AlertRules())}
    assert set(found) == {"certificate b:443", "certificate d:443"}
    assert [found[key].severity for key in sorted(found)] == ["warning", "critical"]
    assert ending(facts, "certificate a:443") is None
    assert ending(facts, "certificate c:443") == ""
    assert ending(facts, "certificate gone:443") == UNWATCHED


def letter(reason: str, **more: Any) -> DeadLetter:
    return DeadLetter(
        stage="loader",
        site="shop",
        reason=reason,
        detail="value 'hunter2'",
        body=b'{"card":"hunter2"}',
        at=NOW,
        origin="l:1:0",
        **more,
    )


def test_letters_are_gathered_with_a_sample_that_holds_nothing_of_the_body() -> None:
    runs: dict[str, DeadRun] = {}
    for number in range(3000):
        some = [letter(f"reason_{number % 40}", message_id="m1", event="Order", user_id="hunter2")]
        runs = add(runs, "loader", "a", letters=some, number=1, now=NOW + number)
    run = runs["loader a"]
    assert (run.letters, run.since, len(run.reasons)) == (3000, NOW, MOST_REASONS + 1)
    assert run.sample == {"reason": "reason_0", "event": "Order", "messageId": "m1"}
    (fault,) = faults_of(Facts(now=NOW, connections={"a": CONNECTION}, dead=runs), AlertRules())
    assert "hunter2" not in repr(fault)
    assert fault.at_once
    for number in range(MOST_RUNS + 50):
        runs = add(runs, "loader", f"c{number}", letters=[], number=1, now=NOW)
    assert len(runs) == MOST_RUNS + 1
    assert runs[f"loader {OTHERS}"].letters == 51, "letters beyond the bound are told, too"


URL = {"slack": {"url": "https://hooks.example.com/x"}}


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        ({"type": "slak"}, "alerts.x.type", "did you mean"),
        ({"type": "slack"}, "alerts.x", "`url` is missing"),
        ({"type": "slack", "url": "hooks"}, "alerts.x.url", "such as https://hooks.slack.com"),
        ({"type": "slack", **URL["slack"], "wen": []}, "alerts.x.wen", "when"),
        ({"type": "slack", **URL["slack"], "when": ["conection"]}, "alerts.x.when[0]", "conection"),
        ({"type": "slack", **URL["slack"], "repeat": "5s"}, "alerts.x.repeat", "at least 1m"),
        ({"type": "slack", **URL["slack"], "certificates": ["example.com"]}, "alerts.x.certificates", "host:port"),
        ({"type": "slack", **URL["slack"], "when": ["disk"], "syncs": ["s"]}, "alerts.x.syncs", "means nothing"),
        ({"type": "email", "host": "h", "to": ["ops"], "sender": "a@b.example"}, "alerts.x.to", "expected an address"),
        ({"type": "email", "host": "h", "to": [], "sender": "a@b.example"}, "alerts.x.to", "1"),
        ({"type": "email", "host": "h", "to": ["o@b.example"], "sender": "a@b.example", "user": "u"}, "alerts.x", "both or neither"),
        (
            {"type": "email", "host": "h", "to": ["o@b.example"], "sender": "a@b", "user": "u", "password": "p", "security": "none"},
            "alerts.x.security",
            "in the clear",
        ),
    ],
)  # fmt: skip
def test_wrong_options_name_their_path(document: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_alert("x", document)
    (problem,) = refused.value.problems
    assert problem.path == path
    assert words in problem.message


def test_channels_are_found() -> None:
    assert CHANNELS.names() == ["email", "pagerduty", "slack", "teams", "webhook"]
