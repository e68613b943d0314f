"""What benchmarks found, one JSON line a case in `bench/history.jsonl`, and the last two beside each other: `python -m bench.history`.

Only ratios are kept, to a ceiling or to one `msgspec` decode of the same events measured in the same run: they hold where another
machine, or the same one on another day, has other times. Compared is like with like: benchmark, case and machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.kit.events import KINDS

FILE = Path(__file__).with_name("history.jsonl")
CEILING, DECODES = "of the ceiling", "decodes"
"""How names of ratios end: of the former more is better, of the latter less."""
NOISE = 0.1
"""Ratios of one commit differ by as much."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One case of one run. `at`: epoch seconds. `commit` ends with `+` where files were changed since."""

    at: float
    commit: str
    machine: str
    python: str
    benchmark: str
    case: str
    ratios: dict[str, float]


class Change(NamedTuple):
    """One ratio in the last two runs of a case; `better` is None within the noise."""

    benchmark: str
    case: str
    ratio: str
    before: float
    after: float
    commits: str
    better: bool | None


def keep(benchmark: str, case: str, ratios: Mapping[str, float], file: Path = FILE) -> None:
    """Appends what a case found.

    Args:
        ratios: by name; the name ends with `CEILING` or `DECODES`.
    """
    result = Result(
        at=round(time.time()),
        commit=_commit(),
        machine=machine(),
        python=platform.python_version(),
        benchmark=benchmark,
        case=case,
        ratios={name: round(value, 3) for name, value in ratios.items()},
    )
    with file.open("ab") as output:
        output.write(msgspec.json.encode(result) + b"\n")


def machine() -> str:
    """Returns the words by which results of one machine are known."""
    return f"{platform.node()}, {os.cpu_count()} x {_processor()}"


def in_decodes(micros: float, kind: str = "flat") -> float:
    """Returns a time of CPU for one event as a number of decodes of such an event, measured now."""
    chance = random.Random(1)
    bodies = [msgspec.json.encode(KINDS[kind](number, chance, "run")) for number in range(200)]
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    least = float("inf")
    for _ in range(20):
        began = time.process_time()
        for body in bodies:
            decode(body)
        least = min(least, time.process_time() - began)
    return micros / (least / len(bodies) * 1e6)


def compare(results: Iterable[Result]) -> list[Change]:
    """Returns how the ratios of the last two runs of each case differ."""
    runs: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        runs.setdefault((result.benchmark, result.case, result.machine), []).append(result)
    found: list[Change] = []
    for (benchmark, case, _), (before, after) in ((key, each[-2:]) for key, each in runs.items() if len(each) > 1):
        for name in sorted(before.ratios.keys() & after.ratios.keys()):
            old, new = before.ratios[name], after.ratios[name]
            change = (new - old) / old if old else 0.0
            better = None if abs(change) <= NOISE else (change > 0) == name.endswith(CEILING)
            found.append(
                Change(
                    benchmark=benchmark,
                    case=case,
                    ratio=name,
                    before=old,
                    after=new,
                    commits=f"{before.commit} → {after.commit}",
                    better=better,
                )
            )
    return found


def read(file: Path = FILE) -> list[Result]:
    """Returns everything that is kept, the oldest first."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [msgspec.json.decode(line, type=Result) for line in lines if line.strip()]


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=FILE.parent, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    lines = [line for line in changed.splitlines() if not line.endswith(f"bench/{FILE.name}")]
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if lines else "")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    arguments = parser.parse_args()
    changes = compare(read())
    if arguments.json:
        print(msgspec.json.encode([each._asdict() for each in changes]).decode())
        return
    if not changes:
        print(f"nothing to compare: no case stands twice in {FILE}; run the same benchmark again on this machine")
    for each in changes:
        word = {None: "", True: "better", False: "WORSE"}[each.better]
        print(f"{each.benchmark}: {each.case}: {each.ratio:28} {each.before:7.2f} {each.after:7.2f} {word:7} {each.commits}")


if __name__ == "__main__":
    main()
