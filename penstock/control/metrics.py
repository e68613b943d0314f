"""Numbers of running services, read from their `/metrics` and `/ready`.

Counters belong to the process that answers: they begin with its start.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import msgspec

from shared.tasks import timeout

TIMEOUT_SECONDS = 3.0
# The parser of prometheus_client costs as much time as the rest of `penstock status`; only our own services' texts are read
# here.
_SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)', re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Scrape:
    """The answer of one service. `samples` maps a metric to its values by labels."""

    url: str
    samples: Mapping[str, Sequence[tuple[Mapping[str, str], float]]] = field(default_factory=dict)
    ready: bool = False
    problems: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    """Why it did not answer."""


def total(scrapes: Iterable[Scrape], name: str, **labels: str) -> float | None:
    """Returns the sum of a metric over services and over the labels not named; None if no service has it."""
    values = [
        value
        for scrape in scrapes
        for found, value in scrape.samples.get(name, ())
        if all(found.get(label) == wanted for label, wanted in labels.items())
    ]
    return sum(values) if values else None


async def scrape_all(urls: Sequence[str]) -> list[Scrape]:
    """Asks all services at once; one that does not answer has an `error`."""
    return list(await asyncio.gather(*(asyncio.to_thread(_scrape, url.rstrip("/").removesuffix("/metrics")) for url in urls)))


async def wait_for_revision(urls: Sequence[str], revision: int, timeout_seconds: float = 20.0) -> list[str]:
    """Waits until every service works with a revision of the project; returns the addresses of the services that do not in time."""
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
    """Returns the lowest revision of a page: each of several processes behind it has one."""
    return min((value for _, value in scrape.samples.get("config_revision", ())), default=0)


def _scrape(url: str) -> Scrape:
    try:
        status, metrics = _get(f"{url}/metrics")
        if status != 200:
            return Scrape(url, error=f"/metrics answers {status}")
        status, answer = _get(f"{url}/ready")
        body = msgspec.json.decode(answer)
    except (OSError, HTTPException, ValueError, msgspec.MsgspecError) as exc:
        return Scrape(url, error=str(exc) or type(exc).__name__)
    problems, warnings = (body.get(part) if isinstance(body, dict) else None for part in ("problems", "warnings"))
    return Scrape(
        url=url,
        samples=_samples(metrics.decode()),
        ready=status == 200,
        problems=problems if isinstance(problems, dict) else {},
        warnings=warnings if isinstance(warnings, dict) else {},
    )


def _get(url: str) -> tuple[int, bytes]:
    """Returns status and body."""
    place = urlsplit(url)
    if place.scheme != "http" or not place.hostname:
        raise ValueError(f"expected an address such as http://127.0.0.1:9464, got {url!r}")
    link = HTTPConnection(place.hostname, place.port or 80, timeout=TIMEOUT_SECONDS)
    try:
        link.request("GET", place.path)
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


def _samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for name, labels, value in _SAMPLE.findall(text):
        read = {label: _ESCAPED.sub(_unescaped, quoted) for label, quoted in _LABEL.findall(labels)} if labels else {}
        samples.setdefault(name, []).append((read, float(value)))
    return samples


def _unescaped(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]
