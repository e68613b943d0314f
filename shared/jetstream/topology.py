"""Streams and buckets of JetStream, declared once as data, and the one function that creates them on a broker.

Every service calls `ensure` at start, after each reconnection, and when it finds that a stream is gone. It creates missing
streams, widens existing ones, and never shrinks a limit, so that two versions side by side cannot take room from each other. If
the broker has less room than a stream should get, the stream gets the room there is. Where each service has a user of its own
(`deploy/nats/users.conf`), the router alone may create and widen, and the others wait for it. Commands never call it: an
operator's shell may lack the services' settings. Only the functions below make subjects.

| stream | holds | retention |
| --- | --- | --- |
| EVENTS | accepted frames by site and partition | by age and bytes; a full stream refuses, never forgets |
| FUNCTIONS | frames waiting for a connection's functions | work queue; each connection has its own limit |
| DELIVER | frames waiting for a connection's destination | work queue; each connection has its own limit |
| RETRY | rows of a table, and calls, that failed, waiting for their time | work queue |
| DEAD | dead letters | by age; a full stream refuses, and the largest holder makes room (`router/room/dead.py`) |
| WARNINGS | what happened to events on their way, counted | by age and bytes; the oldest make room |
| LIVE | what functions log | in memory, the newest few of each subject |
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from nats.errors import Error as NatsError
from nats.js import api
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServiceUnavailableError

from shared.errors import Denied, Transient

if TYPE_CHECKING:
    from shared.jetstream.broker import Broker

MIB = 1024 * 1024
GIB = 1024 * MIB
DAY = 86_400.0

EVENTS = "EVENTS"
FUNCTIONS = "FUNCTIONS"
DELIVER = "DELIVER"
RETRY = "RETRY"
DEAD = "DEAD"
WARNINGS = "WARNINGS"
LIVE = "LIVE"

CONFIG_BUCKET = "config"
KEPT_REVISIONS = 20
"""Revisions of the project that the broker keeps."""
LEASE_BUCKET = "leases"
STATE_BUCKET = "state"
STATS_BUCKET = "stats"
STORE_BUCKET = "store"
"""What functions keep: each value for a time of its own."""
IDENTITY_BUCKET = "identity"
"""Visitors of connections that stitch: their users, and their anonymous events."""
FORGOTTEN_BUCKET = "forgotten"
"""Digests of the ids of people who are forgotten, requests to forget, and their receipts."""
CATALOGUE_BUCKET = "catalogue"
"""Which events and properties sites have sent."""
KEPT_LIVE = 200
"""Messages of LIVE that the broker keeps of each subject."""
LIVE_BYTES = 64 * MIB
WARNINGS_BYTES = 64 * MIB

SMALLEST_BYTES = 16 * MIB
"""A stream with no more room than this is of no use: better to say that the broker has no room."""

_NO_ROOM = 10047  # server/errors.json of nats-server: the broker's storage is reserved already
_NO_MEMORY = 10028
_NO_JETSTREAM = 10076

_NO_PEERS = 10005
_PERMISSIONS = "start a router, which makes it, or allow the user to publish to $JS.>, $KV.>, events.>, functions.>, deliver.>, retry.>, dead.>, warnings.> and live.>, and to subscribe to _INBOX.>"
MORE_ROOM = "give JetStream more room: max_file_store in its configuration, or a larger disk"
_REMEDIES = {
    _NO_ROOM: MORE_ROOM,
    10023: MORE_ROOM,
    _NO_MEMORY: "give JetStream more memory (max_memory_store)",
    10026: "raise the account's limit of streams",
    _NO_JETSTREAM: "enable JetStream in the server's configuration",
    10039: "enable JetStream for the account of PENSTOCK_NATS_URL",
    10074: "a broker that is no cluster keeps one copy: set PENSTOCK_REPLICAS=1",
    _NO_PEERS: "the cluster has fewer servers with room than PENSTOCK_REPLICAS",
    10065: "another stream takes these subjects: remove it, or give Penstock an account of its own",
}
"""What to do about a refusal, by the server's code."""

DEDUPLICATION_SECONDS = 120.0
"""A frame resent under the same id within this time is stored once; longer than any publisher's deadline."""

DEAD_DEDUPLICATION_SECONDS = 7_200.0
"""A loader that died between dead-lettering and acknowledging dead-letters again under the same id; it has this long to come
back."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TopologySettings:
    """An operator's settings of the topology. `replicas`: 1 on one machine, 3 in a cluster."""

    replicas: int = 1
    events_max_age_seconds: float = 7 * DAY
    events_max_bytes: int = 20 * GIB
    deliver_max_frames: int = 20_000
    """Frames waiting per connection; beyond that the router remembers where it stopped and catches up from EVENTS."""
    dead_max_age_seconds: float = 30 * DAY
    dead_max_bytes: int = 2 * GIB
    identity_max_bytes: int = GIB


def events_subject(site: str, partition: int | str = 0) -> str:
    """Returns the subject to which ingest publishes a site's frames."""
    return f"events.{site}.{partition}"


def events_filter(site: str) -> str:
    """Returns the filter of all partitions of a site."""
    return f"events.{site}.>"


def queue_of(connection: str, incarnation: str) -> str:
    """Returns the name of a connection's queue, as subject tokens.

    A connection that was removed and added again, or moved to another site, is new and has another `incarnation`
    (`shared/project/snapshot.py`): frames that wait for the former one never reach the destination of the new one.
    """
    return f"{connection}.{incarnation}" if incarnation else connection


def functions_subject(queue: str) -> str:
    """Where frames of a connection wait for its functions, by the name that `queue_of` gives."""
    return f"functions.{queue}"


def deliver_subject(queue: str) -> str:
    """Returns the subject of a connection's queue, from the name that `queue_of` returns."""
    return f"deliver.{queue}"


def sync_queue(sync: str) -> str:
    """Returns the name of a sync's queue; no connection's can be the same, because names of connections have small letters."""
    return f"SYNC.{sync}"


def retry_subject(stage: str, queue: str) -> str:
    """Returns the subject of the events that a stage tries again later for a connection, from the name that `queue_of` returns."""
    return f"retry.{stage}.{queue}"


def dead_subject(stage: str, name: str) -> str:
    """Returns the subject of a stage's dead letters; `name` is a site for ingest, a connection for the others."""
    return f"dead.{stage}.{name}"


def warnings_subject(service: str) -> str:
    """Returns the subject of a service's warnings."""
    return f"warnings.{service}"


def live_subject(stage: str, name: str) -> str:
    """What a stage says of a connection for people who watch; nothing waits for it."""
    return f"live.{stage}.{name}"


def streams(settings: TopologySettings) -> list[api.StreamConfig]:
    """Returns every stream as it should be."""
    durable: dict[str, Any] = {"storage": api.StorageType.FILE, "num_replicas": settings.replicas}
    queue: dict[str, Any] = {
        "retention": api.RetentionPolicy.WORK_QUEUE,
        "discard": api.DiscardPolicy.NEW,
        "discard_new_per_subject": True,
        "max_msgs_per_subject": settings.deliver_max_frames,
        "duplicate_window": DEDUPLICATION_SECONDS,
        "allow_direct": True,
        **durable,
    }
    return [
        api.StreamConfig(
            name=EVENTS,
            subjects=["events.*.*"],
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.NEW,
            max_age=settings.events_max_age_seconds,
            max_bytes=settings.events_max_bytes,
            duplicate_window=DEDUPLICATION_SECONDS,
            allow_direct=True,
            **durable,
        ),
        api.StreamConfig(name=FUNCTIONS, subjects=["functions.*", "functions.*.*"], **queue),
        api.StreamConfig(name=DELIVER, subjects=["deliver.*", "deliver.*.*"], **queue),
        api.StreamConfig(
            name=RETRY,
            subjects=["retry.*.*", "retry.*.*.*"],
            retention=api.RetentionPolicy.WORK_QUEUE,
            discard=api.DiscardPolicy.NEW,
            duplicate_window=DEDUPLICATION_SECONDS,
            **durable,
        ),
        api.StreamConfig(
            name=DEAD,
            subjects=["dead.*.*"],
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.NEW,
            max_age=settings.dead_max_age_seconds,
            max_bytes=settings.dead_max_bytes,
            duplicate_window=DEAD_DEDUPLICATION_SECONDS,
            allow_direct=True,
            **durable,
        ),
        api.StreamConfig(
            name=WARNINGS,
            subjects=["warnings.*"],
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.OLD,
            max_age=settings.dead_max_age_seconds,
            max_bytes=WARNINGS_BYTES,
            duplicate_window=DEDUPLICATION_SECONDS,
            allow_direct=True,
            **durable,
        ),
        api.StreamConfig(
            name=LIVE,
            subjects=["live.*.*"],
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.OLD,
            max_msgs_per_subject=KEPT_LIVE,
            max_bytes=LIVE_BYTES,
            duplicate_window=DEDUPLICATION_SECONDS,
            storage=api.StorageType.MEMORY,
            num_replicas=settings.replicas,
            allow_direct=True,
        ),
    ]


def buckets(settings: TopologySettings) -> list[api.StreamConfig]:
    """Returns the streams behind the key-value buckets (layout: NATS ADR-8)."""
    return [
        api.StreamConfig(
            name=f"KV_{bucket}",
            subjects=[f"$KV.{bucket}.>"],
            max_msgs_per_subject=history,
            max_bytes=settings.identity_max_bytes if bucket == IDENTITY_BUCKET else None,
            discard=api.DiscardPolicy.NEW,
            allow_rollup_hdrs=True,
            allow_direct=True,
            deny_delete=False,
            # A lease ends by its message's own time to live, and so does what functions keep. No delete markers: a taker must not
            # meet a marker for ten seconds.
            allow_msg_ttl=bucket in (LEASE_BUCKET, STORE_BUCKET, IDENTITY_BUCKET),
            # visitors of a frame are written together
            allow_atomic=bucket == IDENTITY_BUCKET,
            duplicate_window=DEDUPLICATION_SECONDS,
            storage=api.StorageType.FILE,
            num_replicas=settings.replicas,
            # Destinations keep epochs of leases and outlive the broker's store: the epochs of a new store must be higher.
            first_seq=time.time_ns() // 1_000_000 if bucket == LEASE_BUCKET else None,
        )
        for bucket, history in (
            (CONFIG_BUCKET, KEPT_REVISIONS),
            (LEASE_BUCKET, 1),
            (STATE_BUCKET, 1),
            (STATS_BUCKET, 1),
            (STORE_BUCKET, 1),
            (IDENTITY_BUCKET, 1),
            (FORGOTTEN_BUCKET, 1),
            (CATALOGUE_BUCKET, 1),
        )
    ]


async def ensure(broker: Broker, settings: TopologySettings, *, widen: bool = True) -> None:
    """Creates every missing stream and bucket and widens the existing ones.

    Args:
        widen: False: leave existing ones as they are; for a user who may not widen, so that nobody asks the broker in vain.

    Raises:
        Transient: the broker refuses a definition or does not answer; says which stream, why, and what to do.
    """
    # the smallest first: the largest stream gets the rest of the room
    for wanted in sorted([*streams(settings), *buckets(settings)], key=lambda each: each.max_bytes or 0):
        try:
            await _bring_in_line(broker, wanted, widen=widen)
        except (APIError, NatsError, OSError, TimeoutError, Denied) as exc:
            raise Transient(f"the stream {wanted.name}: {_why_refused(exc)}") from exc


async def _bring_in_line(broker: Broker, wanted: api.StreamConfig, *, widen: bool) -> None:
    name = str(wanted.name)
    try:
        current = await broker.describe(name)
    except NotFoundError:
        try:
            await broker.unless_denied(name, _create(broker, wanted))
            return
        except BadRequestError:  # another service created it a moment ago
            current = (await broker.js.stream_info(name)).config
    widened = _widened(current, wanted)
    if widened is not None and widen:
        try:
            await broker.unless_denied(name, _update(broker, current, widened))
        except Denied:
            log.info("the user of this service may not widen a stream; a router does", extra={"stream": name})


def _why_refused(error: Exception) -> str:
    if isinstance(error, Denied):
        return f"it is missing, and the user of this process may not make it ({error}); {_PERMISSIONS}"
    code = error.err_code if isinstance(error, APIError) else None
    said = (error.description if isinstance(error, APIError) else "") or str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        said = "the broker does not answer"
    elif isinstance(error, ServiceUnavailableError) and code is None:
        said, code = "the broker has no JetStream", _NO_JETSTREAM
    return f"{said}; {_REMEDIES.get(code or 0, 'look at the log of the broker')}"


async def missing(broker: Broker) -> list[str]:
    """Returns the names of the streams and buckets that the broker lacks.

    Raises:
        nats.errors.NoRespondersError: the broker has no JetStream.
        nats.errors.Error, OSError, TimeoutError: it does not answer.
    """
    wanted = [str(each.name) for each in (*streams(TopologySettings()), *buckets(TopologySettings()))]
    found: set[str] = set()
    while True:
        request = msgspec.json.encode({"offset": len(found)})
        answer = msgspec.json.decode((await broker.nc.request("$JS.API.STREAM.NAMES", request, timeout=5)).data)
        names = answer.get("streams") or []
        found.update(names)
        if not names or len(found) >= answer.get("total", 0):
            return [name for name in wanted if name not in found]


async def _create(broker: Broker, wanted: api.StreamConfig) -> None:
    config = wanted
    while True:
        try:
            await broker.js.add_stream(config)
        except APIError as exc:
            smaller = (config.max_bytes or 0) // 2
            if not _is_short(exc) or smaller < SMALLEST_BYTES:
                raise
            config = dataclasses.replace(config, max_bytes=smaller)
        else:
            if config is not wanted:
                log.warning(
                    "the broker has less room than a stream should get",
                    extra={"stream": wanted.name, "wanted_bytes": wanted.max_bytes, "bytes": config.max_bytes},
                )
            return


def _is_short(error: APIError) -> bool:
    """Whether a smaller stream may fit. A cluster says so in words only: no peer is suitable, for one reason or another."""
    short = error.err_code == _NO_PEERS and "insufficient storage" in (error.description or "")
    return short or error.err_code in (_NO_ROOM, _NO_MEMORY)


async def _update(broker: Broker, current: api.StreamConfig, widened: api.StreamConfig) -> None:
    try:
        await broker.js.update_stream(widened)
    except APIError as exc:
        if not _is_short(exc) or widened.max_bytes == current.max_bytes:
            raise
        log.warning(
            "the broker has no room to widen a stream",
            extra={"stream": current.name, "wanted_bytes": widened.max_bytes, "bytes": current.max_bytes},
        )
        remaining = dataclasses.replace(widened, max_bytes=current.max_bytes)
        if remaining != current:
            await broker.js.update_stream(remaining)


def _widened(current: api.StreamConfig, wanted: api.StreamConfig) -> api.StreamConfig | None:
    changes: dict[str, Any] = {}
    for limit in ("max_bytes", "max_msgs_per_subject", "max_age", "duplicate_window"):
        have, want = getattr(current, limit), getattr(wanted, limit)
        # zero, minus one and None all mean unlimited
        if want and have and have > 0 and want > have:
            changes[limit] = want
    if wanted.allow_atomic and not current.allow_atomic:
        changes["allow_atomic"] = True
    if wanted.discard != current.discard:
        changes["discard"] = wanted.discard
    missing = [subject for subject in wanted.subjects or [] if subject not in (current.subjects or [])]
    if missing:
        changes["subjects"] = [*(current.subjects or []), *missing]
    if (wanted.num_replicas or 1) > (current.num_replicas or 1):
        changes["num_replicas"] = wanted.num_replicas
    return dataclasses.replace(current, **changes) if changes else None
