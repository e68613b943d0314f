"""The applied project as services see it: one value in the bucket `config`, watched and replaced whole.

`apply_project` writes a revision; `watch_config` follows it. If a revision cannot be read (a newer Penstock wrote it), the
service logs and ignores it: the last good one stays, also while the broker is away, and over a restart if a cache folder is set.
A revision that an older Penstock wrote and `apply` would refuse today goes on as before. `/ready` warns of either.

The bucket also has the document as its author wrote it, with `${NAME}` in place of secrets; `penstock export` prints it. Secrets
of keys are stored as hashes only.

It also has the *incarnation* of each connection: given when the connection is added, kept for as long as it stays with its site,
and never given again. The name of a connection's queue contains it, so a new connection shares nothing with a former one of its
name.

So is which queues have, or had, a way through functions_runtime: frames may wait for these although they are gone, and go on as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from shared.devices.connections import of_services
from shared.errors import UNREADABLE, ConfigError, Conflict
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.checks.sites import check_sites
from shared.project.model import Project
from shared.project.read import decode_project
from shared.project.shards import most_shards, spread
from shared.project.variables import interpolate
from shared.tasks import end
from shared.telemetry.health import Health

PROJECT_KEY = "project"
PART = "applied project"
HASH_PREFIX = "sha256:"
SHOWN_PLACES = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConfigSnapshot:
    """The project at one revision, with each shard of a connection as a connection; revision 0 is the empty project before anything was
    applied.
    """

    revision: int
    project: Project
    incarnations: Mapping[str, str] = field(default_factory=dict)
    functions_queues: frozenset[str] = frozenset()
    """Queues of connections whose events go through functions_runtime, or did since they were added."""

    def takes_functions_way(self, connection: str) -> bool:
        """Returns whether frames of a connection are, or may still be, in FUNCTIONS."""
        found = self.project.connections[connection]
        return self.project.through_functions(found) or self.queue_of(connection) in self.functions_queues

    def queue_of(self, connection: str) -> str:
        """Returns the name of a connection's queue."""
        return topology.queue_of(connection, self.incarnations.get(connection, ""))


class StoredProject(msgspec.Struct, frozen=True):
    """The value in the bucket: `document` as written, `resolved` with variables put in and key secrets hashed.

    `text` is the file with its comments; empty where a secret stands in it literally. `applied_by` is user and host, for people.
    `incarnations` are filled in by `apply_project`. A connection without one was applied by a version that knew none.
    """

    document: dict[str, Any]
    resolved: dict[str, Any]
    applied_at: str = ""
    applied_by: str = ""
    text: str = ""
    incarnations: dict[str, str] = {}
    functions_queues: list[str] = []
    """As in `ConfigSnapshot`; filled in by `apply_project`."""
    shards: dict[str, int] = {}
    """The most shards that connections had since they were added (`shared/project/shards`); filled in by `apply_project`."""
    rollback_to: int = 0
    """The earlier revision that it applies again; 0: it applies none."""

    def snapshot(self, revision: int) -> ConfigSnapshot:
        """Returns it as services see it.

        Raises:
            ConfigError: a later version wrote it.
        """
        project = decode_project(self.resolved, stored=True)
        return ConfigSnapshot(revision, *spread(project, self.incarnations, self.functions_queues, self.shards))


def hash_secret(secret: str) -> str:
    """Returns the stored form of a key's secret: secrets are long and random, so a plain hash is safe."""
    return secret if secret.startswith(HASH_PREFIX) else HASH_PREFIX + hashlib.sha256(secret.encode()).hexdigest()


def resolve(document: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns a document with variables put in and key secrets hashed; it decodes to the project that services use.

    Raises:
        ConfigError: with every problem found.
    """
    resolved: dict[str, Any] = interpolate(dict(document), environment)
    decode_project(resolved)
    for site in (resolved.get("sites") or {}).values():
        for key in site.get("keys") or []:
            if key.get("secret"):
                key["secret"] = hash_secret(key["secret"])
    return resolved


async def apply_project(broker: Broker, stored: StoredProject, *, expected_revision: int | None = None) -> int:
    """Writes a project; returns its revision.

    Raises:
        Conflict: `expected_revision` is given and is not the newest.
        NotConnected, Transient: the project may not be applied.
    """
    bucket = Bucket(broker, topology.CONFIG_BUCKET)
    while True:
        found = await stored_project(broker)
        revision, before = found or (0, StoredProject({}, {}))
        if expected_revision is not None and revision != expected_revision:
            raise Conflict(f"the project is at revision {revision}, not {expected_revision}")
        incarnations = _incarnations(before, stored, revision)
        queues = _functions_queues(before, stored, incarnations)
        shards = most_shards(before.shards, of_services(stored.resolved), incarnations, before.incarnations)
        value = msgspec.json.encode(
            msgspec.structs.replace(stored, incarnations=incarnations, functions_queues=queues, shards=shards)
        )
        try:
            return await bucket.put(PROJECT_KEY, value, revision=revision)
        except Conflict:
            if expected_revision is not None:
                raise


def _incarnations(before: StoredProject, after: StoredProject, revision: int) -> dict[str, str]:
    """Returns the incarnation of each connection: its old one if it was there with the same site or source, else a new one.

    A new one begins with the revision that it replaces, so a reader of a later revision without it knows that it was removed.
    """
    known = of_services(before.resolved)
    found: dict[str, str] = {}
    for name, connection in of_services(after.resolved).items():
        if name in known and all(known[name].get(each) == connection.get(each) for each in ("site", "from")):
            found[name] = before.incarnations.get(name, "")
        else:
            found[name] = f"{revision}-{secrets.token_hex(4)}"
    return found


def _functions_queues(before: StoredProject, after: StoredProject, incarnations: Mapping[str, str]) -> list[str]:
    hydrating = {each.get("site") for each in (after.resolved.get("webhooks") or {}).values() if each.get("hydrate") is not None}
    queues = {
        topology.queue_of(name, incarnations[name]): _through_functions(connection) or connection.get("site") in hydrating
        for name, connection in of_services(after.resolved).items()
    }
    return sorted(queue for queue, now in queues.items() if now or queue in before.functions_queues)


def _through_functions(connection: Mapping[str, Any]) -> bool:
    # as `Project.through_functions` and `Connection.through_functions`; `identity: {}` is all of its defaults
    return bool(
        connection.get("functions")
        or connection.get("lookups")
        or connection.get("privacy")
        or connection.get("identity") is not None
    )


def replaced_revision(incarnation: str) -> int:
    """Returns the revision that was in force before a connection was added; -1 if unknown."""
    number = incarnation.partition("-")[0]
    return int(number) if number.isdecimal() else -1


async def stored_project(broker: Broker) -> tuple[int, StoredProject] | None:
    """Returns the newest revision and its project; None before the first `apply`."""
    entry = await Bucket(broker, topology.CONFIG_BUCKET).get(PROJECT_KEY)
    if entry is None or entry.value is None:
        return None
    return entry.revision, msgspec.json.decode(entry.value, type=StoredProject)


async def project_history(broker: Broker) -> list[tuple[int, StoredProject]]:
    """Returns the revisions that the broker keeps, the newest last; one that cannot be read is left out.

    Raises:
        NotConnected: the broker does not answer.
    """
    found: list[tuple[int, StoredProject]] = []
    for entry in await Bucket(broker, topology.CONFIG_BUCKET).history(PROJECT_KEY):
        with contextlib.suppress(*UNREADABLE):
            if entry.value is not None:
                found.append((entry.revision, msgspec.json.decode(entry.value, type=StoredProject)))
    return found


async def current_snapshot(broker: Broker) -> ConfigSnapshot:
    """Returns the project that is applied now; the empty project before the first `apply`.

    Raises:
        ConfigError: a later version wrote it.
        NotConnected: the broker does not answer.
    """
    found = await stored_project(broker)
    return ConfigSnapshot(0, Project()) if found is None else found[1].snapshot(found[0])


class ConfigWatcher:
    """Holds the newest good snapshot in `current`; `changed` waits for the next one."""

    def __init__(self) -> None:
        self.current = ConfigSnapshot(0, Project())
        self.loaded = asyncio.Event()
        """Set once a revision is known, also from the cache."""
        self._next: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def changed(self, since: ConfigSnapshot) -> ConfigSnapshot:
        """Waits until the current snapshot differs from `since`, and returns it."""
        while self.current is since:
            await asyncio.shield(self._next)
        return self.current

    def replace(self, snapshot: ConfigSnapshot) -> None:
        """Makes a snapshot the current one."""
        self.current = snapshot
        self.loaded.set()
        waiting, self._next = self._next, asyncio.get_running_loop().create_future()
        waiting.set_result(None)


@contextlib.asynccontextmanager
async def watch_config(
    broker: Broker, cache_dir: str | None = None, health: Health | None = None
) -> AsyncIterator[ConfigWatcher]:
    """Follows the applied project while the context is open.

    Args:
        cache_dir: folder for the last good revision; with it a service knows its project while the broker is away.
        health: gets a warning of a revision that cannot be read, or that `apply` would refuse today.
    """
    health = health or Health()
    watcher = ConfigWatcher()
    cache = Path(cache_dir) / "project.json" if cache_dir else None
    if cache is not None and cache.exists():
        with contextlib.suppress(ConfigError, msgspec.MsgspecError, OSError):
            watcher.replace(_read(cache.read_bytes(), 0))
    task = asyncio.create_task(_follow(broker, watcher, cache, health), name="config-watch")
    try:
        yield watcher
    finally:
        await end(task)


async def _follow(broker: Broker, watcher: ConfigWatcher, cache: Path | None, health: Health) -> None:
    async for entry in Bucket(broker, topology.CONFIG_BUCKET).watch(PROJECT_KEY):
        if entry.value is None:
            watcher.replace(ConfigSnapshot(entry.revision, Project()))
            health.good(PART)
            continue
        try:
            snapshot = _read(entry.value, entry.revision)
        except (ConfigError, *UNREADABLE) as exc:
            log.error(
                "applied project cannot be read, the last good one stays", extra={"revision": entry.revision, "error": str(exc)}
            )
            unread = f"revision {entry.revision} cannot be read, a later version may have applied it; the log says why"
            if watcher.loaded.is_set():
                health.warn(PART, f"{unread}; the last good revision stays in force")
            else:
                health.bad(PART, unread)
            continue
        watcher.replace(snapshot)
        _doubt(snapshot, health)
        log.info("project in force", extra={"revision": entry.revision})
        if cache is not None:
            _keep(cache, entry.value)


def _doubt(snapshot: ConfigSnapshot, health: Health) -> None:
    """Warns of faults that an earlier version let through. Names places only: a key's id may be a secret."""
    refused = [problem.path for problem in check_sites(snapshot.project.sites)]
    if not refused:
        health.good(PART)
        return
    places = ", ".join(refused[:SHOWN_PLACES]) + (f" and {len(refused) - SHOWN_PLACES} more" if refused[SHOWN_PLACES:] else "")
    why = f"`penstock apply` would refuse revision {snapshot.revision} today: {places}; `penstock plan` says why"
    health.warn(PART, f"{why}; it goes on as before")
    log.warning("applied project would be refused today", extra={"revision": snapshot.revision, "places": places})


def _read(value: bytes, revision: int) -> ConfigSnapshot:
    return msgspec.json.decode(value, type=StoredProject).snapshot(revision)


def _keep(cache: Path, value: bytes) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        fresh = cache.with_suffix(f".{os.getpid()}")
        # destinations' passwords are in it
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
        fresh.replace(cache)
    except OSError as exc:
        log.warning("project cache cannot be written", extra={"path": str(cache), "error": str(exc)})
