"""Numbers that a double does not hold keep their digits, however they are spelled; and nothing else is kept."""

from __future__ import annotations

import json
import random

import pytest

from functions_runtime.rules import numbers
from functions_runtime.rules.packing import prepare
from shared.events import exact
from shared.events.frame import Head, RequestContext, pack
from tests.support.functions import REQUESTS, chain_of

SPELLED = [
    "1e20", "1E22", "1e+20", "-1e20", "1.5e-7", "12.5E3", "123456789012345e5", "0e0", "9.e5", "1e400", "-1E-400", "1e-99",
    "12345678901234567890", "-9007199254740993", "0.1234567890123456789", "12345678.1234567891", "1234567890123456",
]  # fmt: skip
PLAIN = [
    "0", "-0", "1.5", "-12.25", "999999999999999", '"1e20"', '"a 1f3e4c"', '"3e5-4e6"', "true", '{"e":1}', '"order-1e5"',
]  # fmt: skip
AROUND = ['{"a":%s}', '{"a": %s }', "[%s]", "[0,%s]", '{"n":[{"k":[1,\t%s]}]}', '{"a":\n%s\n}']


def flagged(bodies: list[bytes]) -> set[int]:
    block, sizes = b"".join(bodies), list(map(len, bodies))
    return {*exact.suspects(block, sizes), *numbers.with_exponents(block, sizes)}


@pytest.mark.parametrize("around", AROUND)
def test_each_spelling_is_found_wherever_it_stands(around: str) -> None:
    bodies = [(around % value).encode() for value in [*SPELLED, *PLAIN]]
    assert flagged(bodies) >= set(range(len(SPELLED)))
    assert all(numbers.kept(body) for body in bodies[: len(SPELLED)])


def test_ids_and_texts_are_not_taken_for_numbers() -> None:
    assert flagged([b'{"a":%s}' % value.encode() for value in PLAIN]) == set()


def test_a_number_at_the_edge_of_a_chunk_is_found() -> None:
    for before in range(numbers._CHUNK - 30, numbers._CHUNK + 10):
        body = b'{"t":"%s","a":-12.5e20,"b":1}' % (b"x" * before)
        assert flagged([b"{}", body, b"{}"]) == {1}, before


def test_what_is_not_flagged_comes_out_of_javascripts_double_as_it_went_in() -> None:
    chance = random.Random(7)
    values = []
    for _ in range(3000):
        whole = str(chance.randrange(10 ** chance.randrange(1, 19)))
        point = f".{chance.randrange(10 ** chance.randrange(1, 19))}" if chance.random() < 0.5 else ""
        power = f"{chance.choice('eE')}{chance.choice(['', '+', '-'])}{chance.randrange(30)}" if chance.random() < 0.2 else ""
        values.append(f"{chance.choice(['', '-'])}{whole}{point}{power}")
    found = flagged([b'{"a":%s}' % value.encode() for value in values])
    for number, value in enumerate(values):
        if number not in found:
            assert "e" not in value.lower()
            assert float(f"{float(value):.15g}") == float(value)


@pytest.mark.parametrize(
    ("body", "defaults"),
    [
        (b'{"type":"track","p":1e20,"context":{}}', None),
        (b'{"type":"track","p":12345678901234567890,"context":{}}', None),
        (b'{"type":"track","p":1e-400,"context":{}}', None),
        (b'{"type":"track","p":1e400,"context":{}}', None),
        (b'{"type":"track","context":{}}', b'{"context":{"p":12345678901234567890}}'),
    ],
)
async def test_numbers_go_through_functions_with_all_their_digits(body: bytes, defaults: bytes | None) -> None:
    frame = pack("shop", [RequestContext(1_000_000, "http", "k", defaults=defaults)], [Head("m", "track")] * 2, [b"{}", body])
    prepared = prepare(frame, None)
    given = list(prepared.given.values())
    async with chain_of("export default (event) => ({...event, seen: 1})") as chain:
        fates = await chain.run(REQUESTS, given)
    assert fates[1].outputs == (given[1].body[:-1] + b',"seen":1}',)


async def test_plain_events_of_a_frame_are_read_without_looking_for_numbers() -> None:
    bodies = [json.dumps({"n": value}).encode() for value in (1, 2.5, "1e20")]
    frame = pack("shop", [RequestContext(1_000_000, "http", "k")], [Head(f"m{n}", "track") for n in range(3)], bodies)
    assert [given.exact for given in prepare(frame, None).given.values()] == [False, False, False]
