"""States of a sync are forgotten where their rows are not in the destination any more, and kept where they are."""

from __future__ import annotations

from typing import Any

import pytest

from loader.syncs.kept import kept_behind, look_back
from shared.syncs.frames import RowStream, State, Write
from shared.syncs.progress import Kept, StreamProgress, SyncProgress

MARKS = {("t", "sync-5"): 3}


def kept(write: Write = "merge", **more: Any) -> Kept:
    return Kept(**{"wanted": "t", "table": "t", "write": write, "key": (("id",),), "run": 5, "batch": 3, **more})


def progress(each: Kept, *states: State) -> SyncProgress:
    return SyncProgress(run=5, batch=4, states=states, kept={"s": each})


OF_ALL, OF_S = State(b"all"), State(b"s", "s")


@pytest.mark.parametrize(
    ("each", "marks", "absent", "forgets", "fails"),
    [
        (kept(), MARKS, (), False, False),
        (kept(), {("t", "sync-5"): 2}, (), True, False),
        (kept(), {("t", "sync-4"): 9}, (), True, False),
        (kept(), {}, (), True, False),
        (kept(), None, (), False, False),
        (kept(), None, ("t",), True, False),
        (kept("append"), {}, (), False, True),
        (kept("append"), {}, ("t",), True, False),
        (kept("replace"), {}, ("t",), False, False),
        (kept(batch=0), {}, ("t",), False, False),
    ],
)
@pytest.mark.parametrize("state", [OF_ALL, OF_S])
def test_a_state_is_forgotten_only_where_its_rows_are_missing(
    each: Kept, marks: Any, absent: Any, forgets: bool, fails: bool, state: State
) -> None:
    for goes_on in (False, True):
        after, missing = look_back(progress(each, state), marks, absent, goes_on=goes_on)
        assert after.states == (() if forgets else (state,))
        assert bool(missing.again) == forgets == bool(after.again)
        assert bool(missing.lost) == fails == bool("s" in after.kept and after.kept["s"].lost)
        assert bool(after.failed) == (goes_on and forgets)
        assert look_back(after, marks, absent, goes_on=goes_on)[1] == ({}, {}), "it is said once"


def test_rows_of_the_run_that_goes_on_are_missed_also_without_a_state() -> None:
    assert look_back(progress(kept()), {}, (), goes_on=True)[0].failed
    assert not look_back(progress(kept(run=4)), {}, (), goes_on=True)[0].failed


def test_what_states_rest_on_follows_the_loads_and_is_forgotten_with_them() -> None:
    now = {"s": Kept.of(RowStream("s", "t", "merge", (("id",),)), "t")}
    loaded, empty = {"s": StreamProgress(batch=2)}, {"s": StreamProgress(over=True)}
    assert kept_behind({}, (), 6, loaded, now)["s"] == kept(run=6, batch=2)
    assert kept_behind({"s": kept()}, (), 6, empty, now) == {"s": kept()}
    assert kept_behind({"s": kept(wanted="old")}, (), 6, empty, now) == {"s": kept(run=0, batch=0)}
    assert kept_behind({"s": kept()}, (), 6, {"s": StreamProgress(batch=2, failed="x")}, now) == {"s": kept()}
    assert kept_behind({"s": kept(lost="gone")}, ("s",), 6, {}, {}) == {}
    assert kept_behind({"s": kept()}, None, 6, {}, {}) == {}


@pytest.mark.parametrize(
    ("other", "serves"),
    [
        (kept(), True),
        (kept(wanted="u"), False),
        (kept("history"), False),
        (kept(key=(("n",),)), False),
        (kept("append", key=()), True),
        (kept("replace", key=()), True),
    ],
)
def test_a_state_serves_where_rows_are_stored_as_before(other: Kept, serves: bool) -> None:
    assert kept().serves(other) == serves
    assert not kept("replace").serves(kept("append", key=()))
