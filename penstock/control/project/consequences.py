"""The losses of applying a project: removed connections, with the events that still wait for them, and keys that stop working.

A plan shows which lines of the file change. This shows what that means for data, so that a person can say no.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec
from nats.js.errors import NotFoundError

from penstock.control.wording import cut
from shared.devices.connections import IN_THE_BROWSER, goes_to_device, of_services
from shared.errors import NotConnected
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.project.shards import shard_name
from shared.project.snapshot import StoredProject
from shared.streams.reports import CONNECTION_SHARDS, Told, read_reports
from shared.streams.waiting import look_at_subject

SHOWN_ID = 9
"""Characters of a key's id that are shown, the last of them `…`."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """One loss. `events`: how many waiting events are dropped, about."""

    path: str
    what: str
    events: int = 0

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


async def losses(broker: Broker, stored: StoredProject, after: Mapping[str, Any]) -> list[Loss]:
    """Returns the losses of going from the stored project to a resolved one.

    Raises:
        NotConnected: the broker does not answer.
    """
    return [*_sites(stored.resolved, after), *await _connections(broker, stored, after), *await _shards(broker, stored, after)]


def _sites(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Loss]:
    kept = after.get("sites") or {}
    ids = {key["id"] for site in kept.values() for key in site.get("keys") or []}
    found: list[Loss] = []
    for name, site in (before.get("sites") or {}).items():
        path = f"sites.{name}"
        if name not in kept:
            found.append(Loss(path=path, what="the site goes; requests with its keys get 401"))
        elif site.get("enabled", True) and not kept[name].get("enabled", True):
            found.append(Loss(path=path, what="the site is turned off; requests with its keys get 401"))
        else:
            found.extend(_keys(f"{path}.keys", site, kept[name], ids))
    return found


def _keys(path: str, before: Mapping[str, Any], after: Mapping[str, Any], ids: Collection[str]) -> Iterator[Loss]:
    """Yields keys of a site that stop working; a key that moved to another site (`ids`) goes on there."""
    now = {key["id"]: key for key in after.get("keys") or []}
    for key in before.get("keys") or []:
        shown = cut(key["id"], SHOWN_ID)  # the id of a key without a secret is a secret
        if key["id"] not in ids:
            yield Loss(path=path, what=f"requests with key {shown} get 401")
        elif (secret := now.get(key["id"], key).get("secret")) is not None and secret != key.get("secret"):
            old = "its old secret" if key.get("secret") else "no secret"
            yield Loss(path=path, what=f"requests with key {shown} and {old} get 401")


async def _shards(broker: Broker, stored: StoredProject, after: Mapping[str, Any]) -> list[Loss]:
    """Returns the connections that get shards while services of a release run that cannot read the option."""
    wanted = [
        name
        for name, each in (after.get("connections") or {}).items()
        if (each.get("shards") or 1) > 1 and name not in stored.shards
    ]
    reports: list[Told] = []
    with contextlib.suppress(NotConnected):  # no service has run yet
        reports = await read_reports(broker, time.time()) if wanted else []
    earlier = sorted(f"{each.service} {each.instance}" for each in reports if CONNECTION_SHARDS not in each.knows)
    what = (
        f"upgrade first: {', '.join(earlier)} cannot read `shards` and would go on with the project of before; such a router sends all "
        "events to the first shard"
    )
    return [Loss(path=f"connections.{name}.shards", what=what) for name in wanted if earlier]


async def _connections(broker: Broker, stored: StoredProject, after: Mapping[str, Any]) -> list[Loss]:
    kept = after.get("connections") or {}
    found: list[Loss] = []
    for name, connection in of_services(stored.resolved).items():
        if name not in kept:
            what = "the connection goes"
        elif goes_to_device(kept[name], after):
            what = f"the connection now {IN_THE_BROWSER}"
        elif kept[name].get("site") != connection.get("site"):
            what = f"the connection moves from site {connection.get('site')!r} to {kept[name].get('site')!r}"
        else:
            continue
        shards = [shard_name(name, number) for number in range(stored.shards.get(name, 1))]
        events = sum([await _waiting(broker, topology.queue_of(each, stored.incarnations.get(name, ""))) for each in shards])
        found.append(Loss(path=f"connections.{name}", what=f"{what}; {_dropped(events)}", events=events))
    return found


def _dropped(events: int) -> str:
    if not events:
        return "no event waits for it"
    return f"{events} {'event that waits for it is' if events == 1 else 'events that wait for it are'} not delivered"


async def _waiting(broker: Broker, queue: str) -> int:
    with asking("the broker does not tell its state"):
        try:
            total = 0
            for stream, pattern in (
                (topology.FUNCTIONS, topology.functions_subject(queue)),
                (topology.DELIVER, topology.deliver_subject(queue)),
                (topology.RETRY, topology.retry_subject("*", queue)),
            ):
                info = await broker.js.stream_info(stream, subjects_filter=pattern)
                for subject, frames in (info.state.subjects or {}).items():
                    events = (await look_at_subject(broker, stream, subject)).events if frames else 0
                    total += events
        except NotFoundError:  # a broker without our streams holds nothing
            return 0
    return total
