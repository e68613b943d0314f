"""Numbers of running services, read from their `/metrics` and `/ready`.

Counters are those of the process that answers: they begin with its start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from shared.tasks import timeout

TIMEOUT_SECONDS = 3.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one service said. `samples` maps a metric to its values by labels."""

    url: str
    samples: Mapping[str, Sequence[tuple[Mapping[str, str], float]]] = field(default_factory=dict)
    ready: bool = False
    problems: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    """Why it said nothing."""


def total(scrapes: Iterable[Scrape], name: str, **labels: str) -> float | None:
    """Returns the sum of a metric over services and over the labels not named; None when nobody has it."""
    values = [
        value
        for scrape in scrapes
        for found, value in scrape.samples.get(name, ())
        if all(found.get(label) == wanted for label, wanted in labels.items())
    ]
    return sum(values) if values else None


async def scrape_all(urls: Sequence[str]) -> list[Scrape]:
    """Asks every service, all at once; one that does not answer has an `error`."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)) as session:
        return list(await asyncio.gather(*(_scrape(session, url.rstrip("/").removesuffix("/metrics")) for url in urls)))


async def wait_for_revision(urls: Sequence[str], revision: int, timeout_seconds: float = 20.0) -> list[str]:
    """Waits until every service works with a revision of the project; returns the addresses of those that do not in time."""
    waiting = list(urls)
    try:
        async with timeout(timeout_seconds):
            while waiting:
                scrapes = await scrape_all(waiting)
                waiting = [scrape.url for scrape in scrapes if _lowest_revision(scrape) < revision]
                if waiting:
                    await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        pass
    return waiting


def _lowest_revision(scrape: Scrape) -> float:
    """Several processes behind one page have a revision each."""
    return min((value for _, value in scrape.samples.get("config_revision", ())), default=0)


async def _scrape(session: aiohttp.ClientSession, url: str) -> Scrape:
    try:
        async with session.get(f"{url}/metrics") as answer:
            answer.raise_for_status()
            text = await answer.text()
        async with session.get(f"{url}/ready") as answer:
            ready, body = answer.status == 200, await answer.json(content_type=None)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
        return Scrape(url, error=str(exc) or type(exc).__name__)
    problems, warnings = (body.get(part) if isinstance(body, dict) else None for part in ("problems", "warnings"))
    return Scrape(
        url,
        _samples(text),
        ready,
        problems if isinstance(problems, dict) else {},
        warnings if isinstance(warnings, dict) else {},
    )


def _samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return samples
