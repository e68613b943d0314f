"""The judge of the fault tests catches what it is there for: a lost id, a doubled one, a wrong reason, a stranger."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.judge import verify
from tests.faults.places import Schema
from tests.faults.project import QUICK, project, stream
from tests.support.exactly_once import Dead, problems
from tests.support.sender import Books, Fate, Sender
from tests.support.stack import stack


def books(**fates: Fate) -> Books:
    return Books(fates=dict(fates), acknowledged={id_ for id_ in fates if not id_.startswith("unknown")})


GOOD, BAD = Fate(("events",)), Fate(reasons=("rejected_by_destination",))


def dead(id_: str, reason: str = "rejected_by_destination") -> Dead:
    return Dead(id_, "loader", "c", reason, "")


@pytest.mark.parametrize(
    ("rows", "letters", "expected"),
    [
        ({"a": 1}, [dead("b")], None),
        ({"a": 1, "unknown": 1}, [dead("b")], None),
        ({}, [dead("b")], "lost"),
        ({"a": 2}, [dead("b")], "doubled in table"),
        ({"a": 1, "unknown": 2}, [dead("b")], "doubled in table"),
        ({"a": 1}, [], "lost"),
        ({"a": 1}, [dead("b"), dead("b")], "doubled in the dead letters"),
        ({"a": 1}, [dead("b", "type_conflict")], "dead for the reason type_conflict"),
        ({"a": 1}, [dead("a"), dead("b")], "in a table and in the dead letters"),
        ({}, [dead("a"), dead("b")], "dead for the reason"),
        ({"a": 1, "b": 1}, [dead("b")], "where it does not belong"),
        ({"a": 1, "x": 1}, [dead("b")], "never sent"),
        ({"a": 1}, [dead("b"), dead("x")], "never sent"),
    ],
)
def test_what_is_wrong_is_named(rows: dict[str, int], letters: list[Dead], expected: str | None) -> None:
    found = problems(books(a=GOOD, b=BAD, unknown=GOOD), {"events": Counter(rows)}, letters, connection="c")
    if expected is None:
        assert not found
    else:
        assert expected in " ".join(found)


def test_an_event_in_one_of_its_two_tables_is_wrong_whether_it_was_acknowledged_or_not() -> None:
    both = Fate(("one", "two"))
    rows = {"one": Counter({"a": 1, "unknown": 1}), "two": Counter[str]()}
    found = " ".join(problems(books(a=both, unknown=both), rows, []))
    assert "not in table two" in found
    assert "in some of its tables only" in found


@pytest.mark.timeout(240)
async def test_a_row_taken_away_and_a_row_copied_behind_a_real_run_are_found(
    tmp_path: Path, new_schema: Callable[[], Schema]
) -> None:
    schema = new_schema()
    with stack(tmp_path, QUICK) as running:
        await running.apply(project({"c": stream("pg")}, {"pg": schema.destination}))
        await asyncio.to_thread(running.start_all)
        sent = await Sender(running.port, 1).send(200)
        await verify(running, sent, {"c": schema})
        lost, doubled = sorted(sent.acknowledged)[:2]
        await schema.run(
            f"DELETE FROM {{}}.events WHERE message_id = '{lost}'",
            f"INSERT INTO {{}}.events SELECT * FROM {{}}.events WHERE message_id = '{doubled}'",
        )
        with pytest.raises(AssertionError) as caught:
            await verify(running, sent, {"c": schema})
    assert f"acknowledged and lost: not in table events, not in the dead letters: 1 events, such as {lost}" in str(caught.value)
    assert f"doubled in table events: 1 events, such as {doubled}" in str(caught.value)
