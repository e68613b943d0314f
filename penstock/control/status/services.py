"""What the services and the local stack say of themselves: who answers, who is not ready and why, whose process dies, what was refused."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from penstock.control.metrics import Scrape
from penstock.control.wording import counted
from penstock.stack.home import StackState

DYING_SECONDS = 300.0
"""A process that died more than once, the last time within this time, is not well although it runs."""
CLIENTS = "clients"
"""The part of `/ready` for refused clients. Any client can cause refusals: they are shown, and are no problem of the stack."""
_PROCESS = re.compile(r"^process \d+: ")
"""The prefix of each process's parts in the `/ready` of an edge of several processes."""
OF_A_LINE = ("connection ", "sync ", "feed ")
"""Parts of `/ready` that have a line of their own in the status."""


def not_answering(stack: StackState | None, scrapes: Sequence[Scrape]) -> dict[str, str]:
    """Returns the services that do not answer, and why."""
    return {_named(stack, scrape.url): scrape.error for scrape in scrapes if scrape.error}


def said_by_services(stack: StackState | None, scrapes: Sequence[Scrape]) -> dict[str, str]:
    """Returns the state without the broker: which services are ready, and the problems of services and processes."""
    said = {_named(stack, scrape.url): "ready" if scrape.ready else "not ready" for scrape in scrapes if not scrape.error}
    parts = {
        f"{_named(stack, scrape.url)} {part}": why
        for scrape in scrapes
        for part, why in {**scrape.warnings, **scrape.problems}.items()
    }
    return {**of_processes(stack, scrapes), **said, **parts}


def _named(stack: StackState | None, url: str) -> str:
    """Returns a service's address, with its name if known."""
    names = [process.name for process in stack.processes if process.admin_url == url] if stack is not None else []
    return f"{names[0]} ({url})" if names else url


def of_processes(stack: StackState | None, scrapes: Sequence[Scrape]) -> dict[str, str]:
    """Returns the processes that the supervisor cannot keep running."""
    found: dict[str, str] = {}
    for process in stack.processes if stack is not None else ():
        died = time.time() - process.died_at < DYING_SECONDS
        keeps_dying = process.restarts > 1 and died
        if keeps_dying or (process.restarts and process.state != "ready"):
            scrape = next((each for each in scrapes if each.url == process.admin_url), None)
            parts = scrape.problems if scrape is not None else {}
            why = "".join(f"; {part}: {why}" for part, why in parts.items())
            log = f"{stack.home}/logs/{process.name}.log" if stack is not None else ""
            # a death of long ago does not explain why it does not answer now
            deaths = f"; it died {counted(process.restarts, 'time')}" if died or process.state != "not ready" else ""
            found[f"process {process.name}"] = f"{process.state}{why}{deaths}; its log says why: {log}"
    return found


def of_services(stack: StackState | None, scrapes: Sequence[Scrape]) -> dict[str, str]:
    """Returns the services' problems, except those with a line of their own and refused clients; streams are measured here."""
    return {
        f"{_named(stack, scrape.url)} {part}": why
        for scrape in scrapes
        for part, why in {**scrape.warnings, **scrape.problems}.items()
        if not _PROCESS.sub("", part).startswith((*OF_A_LINE, "stream ", CLIENTS))
    }


def refused_by(scrapes: Sequence[Scrape]) -> dict[str, int]:
    """Returns requests refused at the edge since its start, by code, site and key; the most first."""
    return _by_labels(scrapes, "ingest_requests_refused_total")


def dropped_by(scrapes: Sequence[Scrape]) -> dict[str, int]:
    """Returns events left out on purpose at the edge since its start, by reason and site; the most first."""
    return _by_labels(scrapes, "ingest_events_dropped_total")


def _by_labels(scrapes: Sequence[Scrape], counter: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for scrape in scrapes:
        for labels, value in scrape.samples.get(counter, ()):
            what = ", ".join(f"{label} {labels[label]}" for label in sorted(labels) if labels[label])
            found[what] = found.get(what, 0) + int(value)
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def dead_lost_of(scrapes: Sequence[Scrape]) -> dict[str, int]:
    """Returns dead letters that DEAD had no room for, by what became of them and whose they were."""
    found: dict[str, int] = {}
    for what in ("evicted", "refused"):
        for scrape in scrapes:
            for labels, value in scrape.samples.get(f"dead_letters_{what}_total", ()):
                name = f"{what}, {labels.get('stage', '')} {labels.get('source', '')}"
                found[name] = found.get(name, 0) + int(value)
    return found


def words_on(scrapes: Sequence[Scrape], part: str, kinds: Sequence[str] = ("problems", "warnings")) -> list[str]:
    """Returns the services' words about a part, problems before warnings."""
    return [
        why
        for kind in kinds
        for scrape in scrapes
        for name, why in getattr(scrape, kind).items()
        if _PROCESS.sub("", name) == part
    ]
