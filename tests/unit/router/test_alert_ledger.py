"""What an alert tells, with a moved clock: each change once, repeats by the rule, storms in one message, nothing while it is silenced."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from router.alerts.contract import AlertRules, Item
from router.alerts.judge.ledger import MOST_FAULTS, Fault, Kept, Ledger, due, look, mark_of, tidy, told, untold
from router.alerts.judge.message import plan_of
from router.alerts.store import encode_ledger
from shared.reading.units import Duration

RULES = AlertRules(after=Duration(120), repeat=Duration(3600))
DOWN = Fault(key="connection a", kind="connection", title="connection a: failing", why="no answer")


def never(_key: str, _kept: Kept) -> bool:
    return False


def always(_key: str, _kept: Kept) -> bool:
    return True


def well(_key: str, _kept: Kept) -> str | None:
    return ""


def unknown(_key: str, _kept: Kept) -> str | None:
    return None


class Watch:
    """Looks at times, sends what is due, and keeps what the state is after it was stored and read again."""

    def __init__(self, rules: AlertRules = RULES, *, works: bool = True) -> None:
        self.rules = rules
        self.works = works
        self.ledger = Ledger()
        self.sent: list[tuple[float, str, str]] = []

    def at(
        self,
        now: float,
        *faults: Fault,
        silenced: Callable[[str, Kept], bool] = never,
        ending: Callable[[str, Kept], str | None] = well,
    ) -> list[Item]:
        ledger = look(self.ledger, faults, now, self.rules, ending=ending)
        ledger = tidy(ledger, now, self.rules, silenced)
        items = due(ledger, now, self.rules, silenced)
        if items and self.works:
            ledger = told(ledger, items, now)
            self.sent.extend((now, item.status, item.key) for item in items)
        self.ledger = msgspec.json.decode(msgspec.json.encode(ledger), type=Ledger)
        return items


def statuses(watch: Watch) -> list[str]:
    return [status for _, status, _ in watch.sent]


def test_a_fault_that_lasts_is_told_once_and_its_end_once() -> None:
    watch = Watch()
    for now in range(0, 1200, 10):
        watch.at(now, *([DOWN] if 100 <= now < 600 else []))
    assert watch.sent == [(220, "failing", "connection a"), (720, "recovered", "connection a")]
    assert watch.ledger.faults == {}


def test_a_fault_that_does_not_last_is_not_told_and_one_that_comes_back_soon_is_one() -> None:
    watch = Watch()
    for now in range(0, 110, 10):
        watch.at(now, DOWN)
    watch.at(115)
    assert watch.sent == []
    for now in range(200, 2000, 10):
        watch.at(now, *([DOWN] if now % 200 else []))  # it flaps
    assert statuses(watch) == ["failing"]


def test_a_fault_that_lasts_is_told_again_by_the_rule() -> None:
    watch = Watch()
    for now in range(0, 3 * 3600, 30):
        watch.at(now, DOWN)
    assert [now for now, _, _ in watch.sent] == [120, 3720, 7320]
    never_again = Watch(AlertRules(after=Duration(0), repeat=Duration(0)))
    for now in range(0, 3 * 3600, 30):
        never_again.at(now, DOWN)
    assert statuses(never_again) == ["failing"]


def test_what_came_and_went_while_the_channel_did_not_work_is_told_with_its_end() -> None:
    watch = Watch(works=False)
    for now in range(0, 600, 10):
        watch.at(now, *([DOWN] if now < 300 else []))
    watch.works = True
    (item,) = watch.at(700)
    assert (item.status, item.since, item.ended) == ("recovered", 0, 300)
    assert watch.at(710) == []


def test_dead_letters_are_told_at_once_and_other_faults_wait() -> None:
    watch = Watch()
    dead = Fault(key="dead loader a", kind="dead", title="dead letters", at_once=True)
    assert [item.key for item in watch.at(1, DOWN, dead)] == ["dead loader a"]


def test_what_is_unknown_is_neither_there_nor_gone() -> None:
    watch = Watch()
    for now in (0, 120):
        watch.at(now, DOWN)
    for now in range(130, 2000, 100):
        watch.at(now, ending=unknown)
    assert statuses(watch) == ["failing"]
    for now in (2000, 2120):
        watch.at(now)
    assert statuses(watch) == ["failing", "recovered"]


def test_a_silence_tells_nothing_until_it_ends() -> None:
    watch = Watch()
    for now in range(0, 1000, 10):
        watch.at(now, DOWN, silenced=always)
    assert watch.sent == []
    watch.at(1000, DOWN)
    assert statuses(watch) == ["failing"]
    for now in range(1010, 1500, 10):
        watch.at(now, silenced=always)
    assert statuses(watch) == ["failing"], "its end waits for the end of the silence"
    watch.at(1500)
    assert statuses(watch) == ["failing", "recovered"]


def test_what_came_and_went_within_a_silence_is_never_told() -> None:
    watch = Watch()
    for now in range(0, 1000, 10):
        watch.at(now, *([DOWN] if now < 500 else []), silenced=always)
    assert watch.at(1000) == []
    assert watch.ledger.faults == {}


def test_the_end_is_not_told_where_the_author_does_not_want_it() -> None:
    watch = Watch(AlertRules(after=Duration(0), recovered=False))
    for now in range(0, 500, 10):
        watch.at(now, *([DOWN] if now < 200 else []))
    assert statuses(watch) == ["failing"]
    assert watch.ledger.faults == {}


def broken(count: int) -> list[Fault]:
    return [Fault(key=f"connection {number}", kind="connection", title="x", why="w") for number in range(count)]


AT_ONCE = AlertRules(after=Duration(0), repeat=Duration(0))


def looked(ledger: Ledger, count: int, now: float) -> tuple[Ledger, list[Item]]:
    """Returns the state after a look at which so many connections fail, and what is due."""
    ledger = look(ledger, broken(count), now, AT_ONCE, ending=well)
    return ledger, due(ledger, now, AT_ONCE, never)


def test_a_storm_is_one_message_that_counts_what_it_does_not_list() -> None:
    ledger, items = looked(Ledger(), 500, 1.0)
    message, covered = plan_of("oncall", ledger, items, 1.0, most=20, resolves_each=False)
    assert (len(message.items), message.more, len(covered)) == (20, {"failing": 480}, 500)


def test_a_channel_with_an_incident_for_each_fault_opens_few_of_a_storm_and_ends_each_that_it_opened() -> None:
    ledger, opened = Ledger(), set[str]()
    resolved: list[str] = []
    counted = 0
    for minute in range(1, 60):
        count = min(500, 100 * minute) if minute < 20 else 0
        ledger, items = looked(ledger, count, 60.0 * minute)
        if not items:
            continue
        message, covered = plan_of("oncall", ledger, items, 60.0 * minute, most=10, resolves_each=True)
        opened |= {item.key for item in message.items if item.status == "failing"}
        resolved += [item.key for item in message.items if item.status == "recovered"]
        counted = message.unlisted
        if minute < 20:
            assert message.unlisted == count - len(opened)
        ledger = told(ledger, covered, 60.0 * minute, listed=message.items)
    assert len(opened) == 10
    assert sorted(resolved) == sorted(opened)
    assert counted == 0
    assert ledger.faults == {}


def test_a_message_that_is_made_again_has_the_same_id_and_another_has_another() -> None:
    def made(count: int, now: float) -> str:
        ledger, items = looked(looked(Ledger(), count, 1.0)[0], count, now)
        return plan_of("oncall", ledger, items, now, most=20, resolves_each=False).message.id

    assert made(3, 1.0) == made(3, 900.0)
    assert made(3, 1.0) != made(4, 1.0)


def test_a_message_whose_outcome_is_not_known_is_made_again_although_more_fails_meanwhile() -> None:
    ledger, items = looked(Ledger(), 3, 1.0)
    first = plan_of("oncall", ledger, items, 1.0, most=20, resolves_each=False)
    ledger = msgspec.structs.replace(ledger, sending=[mark_of(item) for item in first.covered], in_flight=True)
    ledger, items = looked(ledger, 30, 10.0)
    again = plan_of("oncall", ledger, items, 10.0, most=20, resolves_each=False)
    assert (again.message.id, again.message.items) == (first.message.id, first.message.items)
    ledger = told(ledger, again.covered, 10.0)
    ledger, items = looked(ledger, 30, 20.0)
    assert len(plan_of("oncall", ledger, items, 20.0, most=20, resolves_each=False).covered) == 27


def test_a_fault_that_comes_and_goes_for_minutes_is_soon_one_fault() -> None:
    watch = Watch()
    for now in range(0, 24 * 3600, 10):
        watch.at(now, *([DOWN] if now // 300 % 2 else []))
    told_failing = statuses(watch).count("failing")
    assert told_failing <= 3 + 24, "each hour's reminder, and few changes"
    assert statuses(watch).count("recovered") <= 2
    assert all(item.again for item in watch.at(24 * 3600 + 300, DOWN))
    for now in range(24 * 3600 + 600, 27 * 3600, 10):
        watch.at(now)
    assert statuses(watch)[-1] == "recovered"
    assert watch.ledger.faults == {}
    for now in range(40 * 3600, 41 * 3600, 10):
        watch.at(now, *([DOWN] if now < 40 * 3600 + 600 else []))
    assert watch.sent[-1] == (40 * 3600 + 720, "recovered", "connection a"), "hours later it is as new"


def test_a_fault_that_is_no_longer_told_is_not_called_recovered() -> None:
    watch = Watch()
    for now in (0, 120):
        watch.at(now, DOWN)
    for now in (130, 250):
        items = watch.at(now, ending=lambda _key, _kept: "it left the project")
    (item,) = items
    assert (item.status, item.note) == ("recovered", "it left the project")


def test_another_channel_is_told_of_what_lasts() -> None:
    watch = Watch()
    for now in (0, 120):
        watch.at(now, DOWN)
    watch.ledger = untold(untold(watch.ledger, "one"), "two")
    (item,) = watch.at(130, DOWN)
    assert (item.status, item.since) == ("failing", 0)
    assert watch.at(140, DOWN) == []


@pytest.mark.parametrize("ahead", [3600.0, 86_400.0 * 365])
def test_a_clock_that_was_ahead_does_not_keep_an_alert_quiet(ahead: float) -> None:
    watch = Watch()
    for now in (ahead, ahead + 120):
        watch.at(now, DOWN)
    watch.ledger = msgspec.structs.replace(watch.ledger, next_at=ahead + 7200, attempts=9, trouble="x")
    ledger = look(watch.ledger, [DOWN], 10.0, RULES, ending=well)
    assert ledger.sent_at <= 10.0
    assert ledger.next_at <= 10.0 + 3600
    assert all(max(each.since, each.told) <= 10.0 for each in ledger.faults.values())


def test_texts_are_stored_in_one_line_without_odd_characters_and_a_ledger_always_fits() -> None:
    why = "two\nlines\x00\x1b[31m \ud800" + '\u65e5"' * 400
    faults = [Fault(key=f"service {number}", kind="service", title="\u65e5" * 300, why=why) for number in range(MOST_FAULTS)]
    ledger = look(Ledger(), faults, 0.0, RULES, ending=well)
    kept = ledger.faults["service 0"]
    assert kept.why.startswith("two lines [31m ")
    assert "\n" not in kept.why
    assert len(kept.why.encode()) <= 300
    assert len(encode_ledger(ledger)) < 2**20


@pytest.mark.parametrize("count", [MOST_FAULTS, 3 * MOST_FAULTS])
def test_the_state_is_bounded(count: int) -> None:
    faults = [Fault(key=f"service {number}", kind="service", title="t" * 60, why="w" * 5000) for number in range(count)]
    ledger = look(Ledger(), faults, 0.0, RULES, ending=well)
    assert len(ledger.faults) == MOST_FAULTS
    assert len(encode_ledger(ledger)) < 2**20
