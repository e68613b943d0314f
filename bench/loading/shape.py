"""What shaping costs: CPU microseconds per event from a packed frame to Arrow tables that fit, step by step.

    python -m bench.loading.shape [--events 20000] [--rounds 5] [--profile]

One process, process CPU time, best of some rounds, because neighbours on the machine only ever add. The ceiling is decoding the
same bodies with msgspec and nothing else; the last column is each step's ratio to it. Steps:

    unpack       decompress the frames and cut the bodies
    decode       msgspec only: the ceiling
    materialise  decode, and merge what the server knows
    add          all of `Shaper.add`: unpack, materialise, lay out, flatten to Arrow runs
    take         end the batch: runs to columns per table
    fit          names, types, conversion against tables that exist and fit already
    total        add + take + fit

Figures measured: bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import pstats
import random
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from bench import history
from loader.contract.warehouse import Capabilities, Kind, TableSchema
from loader.fitting.fit import fit_batch
from loader.rows.rules import Stamp
from loader.rows.shape import Shaper
from shared.events.event import facts_of, materialise
from shared.events.frame import Frame, Head, RequestContext, pack
from shared.project.model import Connection

CHUNK = 10_000
FRAME = 500
CAPABILITIES = Capabilities(
    name_limit=63,
    name_unit="bytes",
    transactional=True,
    merge="now",
    stream=True,
    evolve=True,
    widen=frozenset({(Kind.BIGINT, Kind.DOUBLE)}),
)
REQUEST = RequestContext(
    received_at=1_788_000_000_000_000,
    protocol="segment",
    key="shop-web",
    ip="203.0.113.7",
    user_agent="Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    sent_at="2026-09-01T12:34:57.000Z",
    skew=120_000,
)
STAMP = Stamp(datetime(2026, 9, 1, tzinfo=UTC), "bench")
NAMES = ("Order Completed", "Product Viewed", "Cart Viewed", "Product Added", "Signed Up")


class Case(NamedTuple):
    """Events to measure with, and how they are shaped."""

    name: str
    connection: Connection
    frames: list[Frame]
    events: int
    body_bytes: float


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time of the first case goes")
    arguments = parser.parse_args()
    gc.freeze()
    for case in _cases(arguments.events):
        print(f"\n{case.name}: {case.events} events, {case.body_bytes:.0f} bytes a body")
        if arguments.profile:
            _profile(case)
            continue
        steps = _measure(case, arguments.rounds)
        ceiling = steps["decode"]
        history.keep("shape", case.name, {f"{step}, CPU in decodes": micros / ceiling for step, micros in steps.items()})
        for step, micros in steps.items():
            print(f"  {step:<12} {micros:7.2f} us/event   {micros / ceiling:5.2f} x decode")


def _measure(case: Case, rounds: int) -> dict[str, float]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    bodies = [(frame, frame.bodies()) for frame in case.frames]
    facts = facts_of(REQUEST)

    def unpack() -> None:
        for frame in case.frames:
            frame.bodies()

    def decoding() -> None:
        for _, packed in bodies:
            for body in packed:
                decode(body)

    def materialising() -> None:
        for frame, packed in bodies:
            for head, body in zip(frame.heads, packed, strict=True):
                materialise(body, head, facts)

    steps = {
        step: _best(work, rounds, case.events)
        for step, work in (("unpack", unpack), ("decode", decoding), ("materialise", materialising))
    }
    shaper = Shaper("bench", case.connection, CAPABILITIES, "shop")
    live: dict[str, TableSchema | None] = {}
    _run(shaper, case, live)  # warm: tables exist, paths are known
    best = {"add": float("inf"), "take": float("inf"), "fit": float("inf")}
    for _ in range(rounds):
        for step, seconds in _run(shaper, case, live).items():
            best[step] = min(best[step], seconds / case.events * 1e6)
    steps |= best
    steps["total"] = sum(best.values())
    return steps


def _run(shaper: Shaper, case: Case, live: dict[str, TableSchema | None]) -> dict[str, float]:
    spent = {"add": 0.0, "take": 0.0, "fit": 0.0}
    clock = time.process_time
    per_chunk = CHUNK // FRAME
    for start in range(0, len(case.frames), per_chunk):
        began = clock()
        for seq, frame in enumerate(case.frames[start : start + per_chunk], start):
            shaper.add(frame, seq)
        added = clock()
        batch = shaper.take()
        taken = clock()
        fitted = fit_batch(batch, live, shaper.rules, STAMP)
        for patch in fitted.patches:
            known = live.get(patch.table)
            columns = dict(known.columns) if known else {}
            columns.update({column.name: column for column in (*patch.add, *patch.widen)})
            live[patch.table] = TableSchema(columns, patch.primary_key or (known.primary_key if known else ()))
        finished = fitted.finish(live)
        ended = clock()
        assert sum(len(ready.events) for ready in finished.ready) > 0
        for step, seconds in (("add", added - began), ("take", taken - added), ("fit", ended - taken)):
            spent[step] += seconds
    return spent


def _best(work: Callable[[], None], rounds: int, events: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best / events * 1e6


def _profile(case: Case) -> None:
    shaper = Shaper("bench", case.connection, CAPABILITIES, "shop")
    live: dict[str, TableSchema | None] = {}
    _run(shaper, case, live)
    with cProfile.Profile() as profile:
        _run(shaper, case, live)
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def _cases(events: int) -> list[Case]:
    chance = random.Random(7)
    small = [_track(chance, number, NAMES) for number in range(events)]
    many = [_track(chance, number, [f"Event {each}" for each in range(200)]) for number in range(events)]
    mixed = [_mixed(chance, number) for number in range(events)]
    sparse = [_sparse(chance, number) for number in range(events)]
    segment = Connection(site="shop", destination="wh", layout="segment")
    single = Connection(site="shop", destination="wh", layout="single_table")
    return [
        _case("track, single_table", single, small),
        _case("track, segment, 5 names", segment, small),
        _case("track, segment, 200 names", segment, many),
        _case("page/track/identify of 2-5 KB, single_table", single, mixed),
        _case("page/track/identify of 2-5 KB, segment", segment, mixed),
        _case("optional properties in any combination, single_table", single, sparse),
    ]


def _case(name: str, connection: Connection, events: list[dict[str, Any]]) -> Case:
    bodies = [json.dumps(event, separators=(",", ":")).encode() for event in events]
    heads = [Head(event["messageId"], event["type"], event.get("event"), event.get("userId")) for event in events]
    frames = [
        pack("shop", [REQUEST], heads[start : start + FRAME], bodies[start : start + FRAME])
        for start in range(0, len(bodies), FRAME)
    ]
    return Case(name, connection, frames, len(events), sum(map(len, bodies)) / len(bodies))


def _track(chance: random.Random, number: int, names: Any) -> dict[str, Any]:
    moment = f"2026-09-01T12:{number // 60 % 60:02}:{number % 60:02}.{number % 1000:03}Z"
    return {
        "type": "track",
        "event": chance.choice(names),
        "messageId": str(uuid.UUID(int=chance.getrandbits(128))),
        "anonymousId": str(uuid.UUID(int=chance.getrandbits(128))),
        "userId": f"user-{number % 1000}",
        "timestamp": moment,
        "context": {
            "library": {"name": "analytics.js", "version": "4.2.1"},
            "page": {
                "path": "/shop/item",
                "referrer": "https://example.com/",
                "title": "An item of the shop",
                "url": f"https://example.com/shop/item?x={number}",
            },
            "locale": "en-US",
            "timezone": "Europe/Berlin",
            "campaign": {"source": "news", "medium": "mail", "name": "autumn"},
        },
        "properties": {
            "orderId": f"o-{number}",
            "total": round(chance.random() * 100, 2),
            "currency": "EUR",
            "quantity": number % 7,
            "coupon": "SUMMER",
            "category": "shoes",
            "value": number * 3,
            "first": bool(number % 2),
            "products": ["a", "b"],
            "brand": "Acme",
            "variant": "red",
            "position": number % 10,
        },
    }


def _mixed(chance: random.Random, number: int) -> dict[str, Any]:
    event = _track(chance, number, NAMES)
    event["type"] = ("page", "track", "track", "page", "identify")[number % 5]
    event["context"]["page"]["search"] = "?" + "&".join(f"p{each}={chance.getrandbits(64):x}" for each in range(20))
    event["context"]["screen"] = {"width": 1920, "height": 1080, "density": 1.5, "innerWidth": 1800, "innerHeight": 900}
    event["context"]["traits"] = {"email": f"user{number}@example.com", "plan": "pro", "seats": number % 50}
    if event["type"] != "track":
        del event["event"]
    if event["type"] == "identify":
        event["traits"] = {f"trait{each}": chance.choice(("on", "off")) for each in range(25)} | {"bio": "word " * 150}
        del event["properties"]
    else:
        lines = [{"sku": f"sku-{each}", "price": 12.5 + each, "quantity": each, "name": "a thing to buy"} for each in range(20)]
        event["properties"]["products"] = lines[: 10 + number % 11]
        event["properties"]["description"] = "lorem ipsum " * 40
    return event


def _sparse(chance: random.Random, number: int) -> dict[str, Any]:
    event = _track(chance, number, NAMES)
    event["properties"] = {f"option {each}": number + each for each in range(24) if chance.random() < 0.5}
    return event


if __name__ == "__main__":
    main()
