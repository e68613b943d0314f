"""What `penstock status` says of a feed: each fact that a person must know is a state with a reason and a next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from penstock.command.fed import show_feeds
from penstock.control.metrics import Scrape
from penstock.control.status.feeds import GOOD, Facts, FeedStatus, status_of
from penstock.control.status.services import of_services, words_on
from penstock.control.status.status import Status
from penstock.terminal.screen import Screen

NUMBERS = {
    "feeds_records_total": [({"feed": "f"}, 700.0), ({"feed": "g"}, 5.0)],
    "feeds_records_dead_total": [({"feed": "f", "reason": "too_large"}, 2.0), ({"feed": "f", "reason": "malformed_json"}, 1.0)],
    "feeds_lag_records": [({"feed": "f", "partition": "t-0"}, 3.0), ({"feed": "f", "partition": "t-1"}, 4.0)],
    "feeds_lag_seconds": [({"feed": "f", "partition": "a"}, 1.5), ({"feed": "f", "partition": "b"}, 8.0)],
    "feeds_last_record_seconds": [({"feed": "f"}, 1000.0)],
}


def state(*said: str, runner: str | None = "runner-1", samples: Any = NUMBERS, site: bool = True, **document: Any) -> FeedStatus:
    given = {"type": "kafka", "site": "shop", **document}
    scrapes: Sequence[Scrape] = [] if samples is None else [Scrape("http://runner", samples)]
    return status_of(Facts(name="f", document=given, site_enabled=site, runner=runner, said=said, scrapes=scrapes))


STATES: dict[str, tuple[FeedStatus, str, str]] = {
    "follows": (state(), "ok", ""),
    "nothing came": (state(samples={"feeds_records_total": [({"feed": "f"}, 0.0)]}), "idle", ""),
    "no service answers": (state(samples=None), "ok", ""),
    "is off": (state("refused", enabled=False), "disabled", "enabled: false"),
    "its site is off": (state(site=False, runner=None), "disabled", "sites.shop.enabled is false"),
    "no runner": (state(runner=None), "no runner", "is the service connector_runner up?"),
    "its runner fails": (state("begins again after a failure: KeyError", runner=None), "failing", "KeyError"),
    "source away": (state("reading feed: refused; opens it again in 4 s"), "failing", "opens it again in 4 s"),
    "broker full": (state("waits because there is no room: full"), "held", "no room"),
    "records die": (state("30 of 31 of the newest records became dead letters; see"), "records dying", "30 of 31"),
}


@pytest.mark.parametrize("name", STATES)
def test_each_state_has_its_word_and_what_to_do(name: str) -> None:
    found, word, why = STATES[name]
    assert found.state == word
    assert why in found.why
    assert bool(found.why) == (bool(why))
    status = Status(revision=1, connections=[], feeds=[found])
    assert status.healthy == (word in GOOD)


def test_the_numbers_are_those_of_the_feed_over_all_its_partitions() -> None:
    found = state()
    assert (found.received, found.dead, found.lag_records, found.lag_seconds, found.last_record_at) == (700, 3, 7, 8.0, 1000.0)
    silent = state(samples=None)
    assert (silent.received, silent.dead, silent.lag_records, silent.last_record_at) == (None, None, None, None)


def test_words_on_a_feed_stand_in_its_line_and_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    scrape = Scrape("http://runner", warnings={"feed f": "refused (meanwhile the other feeds go on)", "broker": "away"})
    assert list(of_services(None, [scrape]).values()) == ["away"]
    assert words_on([scrape], "feed f") == ["refused (meanwhile the other feeds go on)"]
    show_feeds(Screen(), [state("refused"), state(samples=None)])
    shown = capsys.readouterr().out
    assert "f: refused" in shown
    assert "700" in shown
