"""The state of each feed: who holds its lease, from the broker; reasons and numbers from the words and metrics of the runners.

Counts begin with the start of the runners that answer. A state that needs a person comes with a reason and a next step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from connector_runner.feeds.definition import DYING, WAITS
from penstock.control.metrics import Scrape, total
from penstock.control.status.services import words_on
from shared.jetstream import lease
from shared.jetstream.broker import Broker
from shared.project.model import Project

GOOD = ("ok", "idle", "disabled")
"""States that need no person."""


class FeedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One feed. What its runner would tell is None where none answers."""

    feed: str
    type: str
    site: str
    state: str
    """ok, idle (nothing came so far), held, failing, records dying, disabled or no runner."""
    why: str = ""
    received: int | None = None
    """Records whose events, or dead letters, are durable."""
    dead: int | None = None
    lag_records: int | None = None
    """Records that the source has and that are not read, where the source tells."""
    lag_seconds: float | None = None
    """How far the partition that is most behind is behind its end, where the source tells that."""
    last_record_at: float | None = None
    """Epoch seconds."""


class Facts(NamedTuple):
    """What is known of one feed. `site_enabled`: whether its site is; `said`: what the services report of it."""

    name: str
    document: Mapping[str, Any]
    site_enabled: bool
    runner: str | None
    said: Sequence[str]
    scrapes: Sequence[Scrape]


async def read_feeds(broker: Broker, project: Project, scrapes: Sequence[Scrape]) -> list[FeedStatus]:
    """Returns the state of each feed of a project.

    Raises:
        NotConnected: the broker does not answer.
    """
    return [
        status_of(
            Facts(
                name=name,
                document=document,
                site_enabled=project.sites[document["site"]].enabled,
                runner=await lease.holder(broker, f"feed.{name}"),
                said=words_on(scrapes, f"feed {name}"),
                scrapes=scrapes,
            )
        )
        for name, document in project.feeds.items()
    ]


def status_of(facts: Facts) -> FeedStatus:
    """Returns the state of one feed."""
    name, scrapes = facts.name, facts.scrapes
    received = total(scrapes, "feeds_records_total", feed=name)
    dead = total(scrapes, "feeds_records_dead_total", feed=name)
    records = total(scrapes, "feeds_lag_records", feed=name)
    state, why = _state_of(facts, received)
    return FeedStatus(
        feed=name,
        type=str(facts.document["type"]),
        site=str(facts.document["site"]),
        state=state,
        why=why,
        received=None if received is None else int(received),
        dead=None if received is None else int(dead or 0),
        lag_records=None if records is None else int(records),
        lag_seconds=_most(scrapes, "feeds_lag_seconds", name),
        last_record_at=_most(scrapes, "feeds_last_record_seconds", name),
    )


def _state_of(facts: Facts, received: float | None) -> tuple[str, str]:
    if not facts.document.get("enabled", True):
        return "disabled", "enabled: false in the project"
    if not facts.site_enabled:
        return "disabled", f"its site is: sites.{facts.document['site']}.enabled is false in the project"
    if facts.said:
        why = facts.said[0]
        if why.startswith(WAITS):
            return "held", why
        return ("records dying" if DYING in why else "failing"), why
    if facts.runner is None:
        return "no runner", "no runner works on it; is the service connector_runner up?"
    return ("idle" if not received and received is not None else "ok"), ""


def _most(scrapes: Sequence[Scrape], metric: str, feed: str) -> float | None:
    values = [value for scrape in scrapes for labels, value in scrape.samples.get(metric, ()) if labels.get("feed") == feed]
    return max(values, default=None)
