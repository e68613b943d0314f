"""What functions cost: CPU of the sandbox per event, beside a bare loop in the same engine; cold start; memory of idle sandboxes.

    python -m bench.functions [--rounds 5] [--seconds 1] [--idle 50]

The ceiling is `JSON.parse`, the call and `JSON.stringify` over the same bodies in a Deno process of its own (`bench/kit/bare.js`), in turns with the
sandbox. CPU is that of each process with all its threads; the best of some rounds, because neighbours on the machine only ever
add. Cases are one small function, a chain of three, and one that is not async. A cold start is measured from no process to the result of
the first event. Memory is the private share of all sandboxes together (PSS), and RSS, which counts shared pages in each.

Figures measured: bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil

from bench import history
from bench.kit.events import flat
from functions_runtime.sandbox.batch import Given
from functions_runtime.sandbox.chain import Chain
from functions_runtime.sandbox.guest import Code, Guest, Spec, find_deno

BODIES = 500
"""As many as a frame of the router holds."""
BARE = Path(__file__).parent / "kit" / "bare.js"
SHARED: dict[str, Any] = {"props": {"PLAN": "gold"}, "site": {"id": "shop", "name": "shop"}}
CONTEXT: dict[str, Any] = {"receivedAt": 0, "geo": {}, "ua": {}, "headers": {}}

ENRICH = "export default async function (event, ctx) { event.properties = {...event.properties, plan: 'gold'}; return event }"
PLAIN = "export default function (event, ctx) { event.properties = {...event.properties, plan: 'gold'}; return event }"
FILTER = "export default async (event) => { if (event.properties.internal) return null; event.seen = true; return event }"
RENAME = (
    "export default async (event) => { event.context.lang = event.context.locale; delete event.context.locale; return event }"
)


class Case(NamedTuple):
    """Functions to measure, and the share of the ceiling that they should reach."""

    name: str
    code: tuple[str, ...]
    wanted: float


CASES = (
    Case("one small function", (ENRICH,), 0.7),
    Case("one small function, not async", (PLAIN,), 0.7),
    Case("a chain of three", (ENRICH, FILTER, RENAME), 0.5),
)


class NoLogs:
    """A host that is asked nothing."""

    async def call(self, op: str, args: Sequence[Any]) -> Any:
        """As `Host.call`."""
        raise AssertionError((op, args))

    def log(self, level: str, message: str) -> None:
        """As `Host.log`."""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long each side runs in a round")
    parser.add_argument("--idle", type=int, default=50, help="idle sandboxes; 0: none")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    arguments = parser.parse_args()
    asyncio.run(_measure(arguments))


async def _measure(arguments: argparse.Namespace) -> None:
    chance = random.Random(1)
    bodies = [msgspec.json.encode(flat(number, chance, "run")) for number in range(BODIES)]
    print(f"{BODIES} bodies of {sum(map(len, bodies)) / BODIES:.0f} bytes")
    for case in CASES:
        bare, sandbox, wall = await _in_turns(case, bodies, arguments.rounds, arguments.seconds)
        history.keep("functions", case.name, {f"events a CPU second, {history.CEILING}": bare / sandbox})
        print(
            f"{case.name}: bare {bare:.2f} us, sandbox {sandbox:.2f} us of CPU an event: ratio {bare / sandbox:.2f} "
            f"(asked {case.wanted}); {1e6 / sandbox:,.0f} events a CPU second, {wall:,.0f} events/s with the host"
        )
    starts = [await _cold_start(bodies[0]) for _ in range(10)]
    print(f"cold start to the first result: median {statistics.median(starts):.0f} ms, worst {max(starts):.0f} ms (asked 300)")
    if arguments.idle:
        rss, pss = await _idle(arguments.idle, bodies[0])
        print(f"{arguments.idle} idle sandboxes: PSS {pss:,.0f} MB, RSS {rss:,.0f} MB (asked 2,000)")


async def _in_turns(case: Case, bodies: Sequence[bytes], rounds: int, seconds: float) -> tuple[float, float, float]:
    """Returns microseconds of CPU an event of the bare loop and of the sandbox, and events/s of sandbox and host together."""
    chain = _chain(case.code)
    await chain.ready()
    guest = chain._guest
    assert guest is not None
    given = [Given(body, user=number, exact=False) for number, body in enumerate(bodies)]
    bare_times: list[float] = []
    sandbox_times: list[float] = []
    rates: list[float] = []
    async with _bare(case.code, bodies) as (pid, go):
        once = time.perf_counter()
        for _ in range(20):  # the engine compiles what it often runs
            await chain.run([CONTEXT], given)
        await go(20)
        repeats = max(1, round(seconds * 40 / (time.perf_counter() - once)))
        for _ in range(rounds):
            before = _cpu(pid)
            await go(repeats)
            bare_times.append((_cpu(pid) - before) / (repeats * len(bodies)))
            before, began = _cpu(guest.pid), time.perf_counter()
            for _ in range(repeats):
                await chain.run([CONTEXT], given)
            rates.append(repeats * len(bodies) / (time.perf_counter() - began))
            sandbox_times.append((_cpu(guest.pid) - before) / (repeats * len(bodies)))
    await chain.close()
    return min(bare_times) * 1e6, min(sandbox_times) * 1e6, max(rates)


async def _cold_start(body: bytes) -> float:
    """Returns milliseconds from no process to the result of an event."""
    chain = _chain((ENRICH,))
    began = time.perf_counter()
    await chain.run([CONTEXT], [Given(body)])
    taken = time.perf_counter() - began
    await chain.close()
    return taken * 1000


async def _idle(count: int, body: bytes) -> tuple[float, float]:
    """Returns RSS and PSS in MB of so many sandboxes that have run one event each."""
    chains = [_chain((ENRICH,)) for _ in range(count)]
    try:
        for chain in chains:
            await chain.run([CONTEXT], [Given(body)])
        guests: list[Guest] = [chain._guest for chain in chains if chain._guest is not None]
        memory = [psutil.Process(guest.pid).memory_full_info() for guest in guests]
        return sum(each.rss for each in memory) / 1e6, sum(each.pss for each in memory) / 1e6
    finally:
        for chain in chains:
            await chain.close()


def _chain(code: Sequence[str]) -> Chain:
    return Chain(Spec(tuple(Code(f"f{number}", text) for number, text in enumerate(code)), SHARED), NoLogs())


@contextlib.asynccontextmanager
async def _bare(code: Sequence[str], bodies: Sequence[bytes]) -> AsyncIterator[tuple[int, Any]]:
    process = await asyncio.create_subprocess_exec(
        find_deno(), "run", "--quiet", "--no-config", "--no-lock", "--no-remote", "--no-npm", "--no-prompt", str(BARE),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin, process.stdout

    async def ask(value: object) -> None:
        into.write(msgspec.json.encode(value) + b"\n")
        await into.drain()
        assert await out.readline(), "the bare loop ended"

    try:
        await ask({"functions": code, "bodies": [body.decode() for body in bodies]})
        yield process.pid, ask
    finally:
        process.kill()
        await process.wait()


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
