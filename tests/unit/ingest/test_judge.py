"""Events are judged by columns where none of them is odd, and one by one else: both judge alike."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from ingest.contract import Admission, Parsed
from ingest.judge.batch import heads_of
from ingest.judge.budget import LENIENT_BYTES, Budget
from ingest.judge.verdicts import crowded_of, judge
from shared.project.model import SiteLimits
from shared.reading.units import ByteSize

LIMITS = SiteLimits(event_bytes=ByteSize(3000), depth=16, keys=300)
PLAIN = '{"type":"track","event":"Sold","messageId":"m","userId":"u","anonymousId":"a","properties":{"a":[1,{"b":2}]}}'


def page(more: str) -> str:
    return f'{{"type":"page",{more}}}'


TEXTS = [
    '""',
    '" "',
    '"\\u0000"',
    '"m\\u0000"',
    '"\\u007f"',
    '"~"',
    '"!"',
    '"\\u00fc"',
    '"ü\\u0000"',
    '"\\u200b"',
    "null",
    '"%s"',
]
ODD = [
    PLAIN,
    *(page(f'"userId":"u","{name}":{text}') for name in ("messageId", "anonymousId", "event") for text in TEXTS),
    *(f'{{"type":"track","userId":"u","event":{text}}}' for text in TEXTS),
    *(page(f'"userId":{text}') for text in TEXTS),
    *(page(f'"userId":{text},"anonymousId":"a"') for text in TEXTS),
    *(page(f'"userId":"u","{name}":"{"x" * 1025}"') for name in ("messageId", "anonymousId", "event", "userId", "other")),
    *(page(f'"userId":"u","text":"{"x" * size}"') for size in (1000, 2948, 2949, 2950, 2970)),
    *(page(f'"userId":"u","a":{each * depth}1{end * depth}') for each, end in ("[]", ('{"a":', "}")) for depth in (14, 15, 16, 17)),
    page('"userId":"u","a":"' + "[{" * 50 + '"'),
    page('"userId":"u","a":[' + ",".join(["[]"] * 50) + "]"),
    page('"userId":"u","a":{' + ",".join(f'"{n}":1' for n in range(250)) + "}"),
    page('"userId":"u","a":{' + ",".join(f'"{n}":1' for n in range(400)) + "}"),
    '{"type":"group","userId":"u","groupId":"g"}',
    '{"type":"group","userId":"u"}',
    '{"type":"alias","userId":"u","previousId":"p"}',
    '{"type":"","userId":"u"}',
    '{"type":"odd","userId":"u"}',
    '{"userId":"u"}',
    '{"type":"identify"}',
    '{"type":"page","userId":7}',
    "{}",
]  # fmt: skip


def judged(bodies: list[bytes], *, together: bool, require_id: bool = True) -> Parsed:
    """Judges a batch; not `together`, each event alone."""
    parsed = Parsed(Admission("shop", "web", "server", LIMITS, require_id))
    numbers = itertools.count(1)

    def new_id() -> str:
        return f"new-{next(numbers)}"

    if together:
        items = heads_of(b"[" + b",".join(bodies) + b"]", bare=True)
        judge(parsed, [msgspec.Raw(body) for body in bodies], new_id, budget=Budget(), items=items)
        parsed.bodies = list(map(bytes, parsed.bodies))
    else:
        for position, body in enumerate(bodies):
            before = len(parsed.rejects)
            judge(parsed, [body], new_id, budget=Budget())
            parsed.rejects[before:] = [reject._replace(position=position) for reject in parsed.rejects[before:]]
    return parsed


@pytest.mark.parametrize("require_id", [True, False])
def test_a_batch_is_judged_as_each_of_its_events_alone(require_id: bool) -> None:
    chance = random.Random(1)
    batches = [[PLAIN, event, PLAIN] for event in ODD] + [chance.choices(ODD, k=chance.randrange(2, 40)) for _ in range(200)]
    for events in batches:
        bodies = [event.encode() for event in events]
        alone = judged(bodies, together=False, require_id=require_id)
        assert judged(bodies, together=True, require_id=require_id) == alone, events


@pytest.mark.parametrize("most", [2, 16, 64, 200])
def test_brackets_are_counted_of_several_events_at_once_as_of_each_alone(most: int) -> None:
    chance = random.Random(most)
    for _ in range(200):
        bodies = [
            "".join(chance.choices('[{]x" ', k=chance.choice((0, 3, most, 2 * most, 8 * most)))).encode()
            for _ in range(chance.randrange(30))
        ]
        counted = {index for index, body in enumerate(bodies) if body.count(b"{") + body.count(b"[") > most}
        assert crowded_of(bodies, most) == counted


def test_a_budget_is_spent_to_the_last_byte_and_what_is_too_large_spends_nothing() -> None:
    budget = Budget()
    assert not budget.takes(LENIENT_BYTES + 1)
    assert budget.takes(LENIENT_BYTES - 1)
    assert not budget.takes(2)
    assert budget.takes(1)
    assert not budget.takes(1)
