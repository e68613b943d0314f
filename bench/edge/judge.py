"""What the edge spends on bodies: parsing and judging, without the server: `python -m bench.edge.judge [--against CHECKOUT]`.

Process CPU time, best of some rounds, per event, and as a ratio to decoding the same events with msgspec and nothing else. With
`--against` the code of another checkout takes turns with this one, round by round, and the last column is this one's share of it.

Figures measured: bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench import history
from bench.loading.shape import NAMES, _mixed, _track
from ingest.browser.pages import SitePages
from ingest.clients.keys import KeyIndex
from ingest.contract import Admission, Credential, HttpRequest, Refusal
from ingest.protocols import segment
from shared.project.model import Key, Project, Site

ROUNDS = 5
BATCH = 100


class Desk:
    """Admits one key."""

    micro = None

    def __init__(self) -> None:
        self._keys = KeyIndex(Project(sites={"bench": Site(keys=[Key(id="bench", kind="server")])}))

    def admit(self, credentials: Sequence[Credential]) -> Admission | Refusal:
        """Looks a key up."""
        found = self._keys.admit(credentials)
        return found if isinstance(found, Refusal) else found[0]

    def pages(self, site: str) -> SitePages:  # noqa: ARG002  # the contract
        """Is not asked: the requests are events."""
        return SitePages()

    def new_id(self) -> str:
        """Is not asked: the events have ids."""
        return "new"

    def now(self) -> float:
        """Returns the time."""
        return time.time()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout to take turns with")
    parser.add_argument("--once", action="store_true", help="one round, as JSON")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure()))
        return
    ours: dict[str, dict[str, float]] = {}
    theirs: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        keep_best(ours, run(Path(__file__).parents[2]))
        if arguments.against:
            keep_best(theirs, run(arguments.against))
    print(f"{'case':<22}{'us/event':>10}{'x decode':>10}" + ("   share of the other" if theirs else ""))
    for name, each in ours.items():
        history.keep("judge", name, {"CPU in decodes": each["judge"] / each["decode"]})
        share = f"{each['judge'] / theirs[name]['judge']:>21.2f}" if theirs else ""
        print(f"{name:<22}{each['judge']:>10.2f}{each['judge'] / each['decode']:>10.2f}{share}")


def run(checkout: Path) -> dict[str, dict[str, float]]:
    """Measures the code of a checkout, in a process of its own."""
    command = [
        sys.executable,
        "-P",
        str(Path(__file__).resolve()),
        "--once",
    ]  # not from the folder, whose modules have common names
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    result: dict[str, dict[str, float]] = json.loads(subprocess.check_output(command, env=environment, cwd=checkout))
    return result


def keep_best(best: dict[str, dict[str, float]], measured: dict[str, dict[str, float]]) -> None:
    """Keeps the smaller of each figure: neighbours on the machine only ever add."""
    for name, figures in measured.items():
        known = best.setdefault(name, figures)
        for what, micros in figures.items():
            known[what] = min(known[what], micros)


def measure() -> dict[str, dict[str, float]]:
    """Returns microseconds an event of decoding and of judging, by case."""
    desk = Desk()
    decode = msgspec.json.Decoder(dict[str, Any]).decode

    def decode_all(bodies: list[bytes]) -> None:
        for body in bodies:
            decode(body)

    results: dict[str, dict[str, float]] = {}
    for name, events in cases().items():
        bodies = [json.dumps(event, separators=(",", ":")).encode() for event in events]
        batch = ask("/v1/batch", b'{"batch":[' + b",".join(bodies) + b'],"sentAt":"2026-09-01T12:34:57.000Z"}')
        single = ask("/v1/track", bodies[0])
        results[f"{name}, {BATCH}"] = {
            "decode": best(partial(decode_all, bodies), 100) / BATCH,
            "judge": best(partial(segment.parse, batch, desk), 100) / BATCH,
        }
        results[f"{name}, 1"] = {
            "decode": best(partial(decode, bodies[0]), 5000),
            "judge": best(partial(segment.parse, single, desk), 5000),
        }
    return results


def cases() -> dict[str, list[dict[str, Any]]]:
    """Returns events of 700 bytes, of 2 to 5 KB, and with emoji as Python's json writes them."""
    chance = random.Random(7)
    return {
        "track": [_track(chance, number, NAMES) for number in range(BATCH)],
        "mixed": [_mixed(chance, number) for number in range(BATCH)],
        "emoji": [{**_track(chance, number, NAMES), "text": "\U0001f600 hello"} for number in range(BATCH)],
    }


def ask(route: str, body: bytes) -> HttpRequest:
    """Returns a request with the key in a header."""
    return HttpRequest("POST", route, {}, {}, {"x-write-key": "bench", "content-type": "application/json"}, body, "", "")


def best(work: Callable[[], object], times: int) -> float:
    """Returns microseconds of one call."""
    least = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            work()
        least = min(least, time.process_time() - began)
    return least / times * 1e6


if __name__ == "__main__":
    main()
