"""The project file: sites, destinations, functions, connectors, feeds, webhooks, alerts, and the connections and syncs between them, as Structs.

Every Struct refuses unknown keys, and every field has a description, from which the configuration reference and the JSON Schema
are generated. `load_project` (`shared/project/read.py`) reads the text, puts environment variables in, decodes, and checks the relations between
fields (names, references). Only a plug-in knows its destination's options, so the loader's registry checks them (`loader/registry.py`).
`penstock apply` calls both, so that a bad file changes nothing.

Applied projects are kept in the KV bucket `config` and watched: `shared/project/snapshot.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from shared.devices.connections import DeviceConnection
from shared.project.archive import ArchiveOptions
from shared.project.functions import Function, OnError, PrivacyRule
from shared.project.identity import Identity
from shared.project.lookups import Lookup, LookupUse
from shared.project.problems import From, is_reserved
from shared.project.snowplow import Snowplow
from shared.project.syncs import Sync
from shared.project.tracking import TrackingPlan
from shared.project.webhooks import Webhook
from shared.project.webhooks.hydrate import Hydrate
from shared.reading.units import ByteSize, Duration

Layout = Literal["segment", "single_table", "passthrough", "jitsu_legacy", "snowplow", "webhook"]
Mode = Literal["batch", "stream"]
OnConflict = Literal["unmapped", "widen", "variant", "dead_letter"]
SchemaPolicy = Literal["evolve", "columns", "freeze", "strict"]

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
"""Names of sites, destinations, functions, connections, connectors, syncs, feeds, webhooks and alerts: they become tokens of subjects and keys of buckets."""
NAME_RULE = "a name is 1 to 63 of a-z, 0-9, _ and -, and starts with a letter or digit"


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A write key of a site."""

    id: Annotated[str, Meta(description="the key as clients present it; browsers show it to everybody")]
    kind: Annotated[
        Literal["browser", "server"],
        Meta(
            description="browser: the server fills ip and user agent from the request. server: the client's word about its user stays"
        ),
    ] = "browser"
    secret: Annotated[str | None, Meta(description="when set, clients present `id:secret`; apply keeps only its hash")] = None


class SiteLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of what one site accepts."""

    event_bytes: Annotated[ByteSize, Meta(description="largest single event")] = field(
        default_factory=lambda: ByteSize(256 * 1024)
    )
    request_bytes: Annotated[ByteSize, Meta(description="largest request body, after decompression")] = field(
        default_factory=lambda: ByteSize(8 * 1024 * 1024)
    )
    events_per_request: Annotated[int, Meta(ge=1, description="most events in one request")] = 10_000
    depth: Annotated[int, Meta(ge=2, le=200, description="deepest nesting of one event")] = 64
    keys: Annotated[int, Meta(ge=10, description="most keys in one event, at all depths together")] = 5_000
    rate: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="events per second per key, two seconds of them (at least 100) at once; beyond it 429. None: unlimited"),
    ] = None


class BrowserOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the script of a site's pages does; docs/browser.md."""

    path: Annotated[
        str | None,
        Meta(
            description="a further path of the script and of all that it asks for, such as `/assets/shop` for `/assets/shop.js`; blockers do not know it"
        ),
    ] = None
    cookie_domain: Annotated[
        str | None,
        Meta(
            description="domain for which the server sets the cookie of the anonymous id too, such as `example.com`; needs `origins`. None: only the script sets it"
        ),
    ] = None
    cookie_days: Annotated[int, Meta(ge=1, le=400, description="how long the cookie lives; browsers allow 400 days")] = 365


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A push source: a website, an app, a backend."""

    keys: Annotated[list[Key], Meta(description="write keys")] = []
    domains: Annotated[
        list[str],
        Meta(
            description="host names that select this site when a request carries no key; a site that lists keys needs a browser key for it"
        ),
    ] = []
    origins: Annotated[
        list[str],
        Meta(
            description='origins browsers may send from, such as `https://shop.example.com` or `https://*.example.com`; empty or `"*"`: any, without credentials'
        ),
    ] = []
    enabled: Annotated[bool, Meta(description="false: requests are refused with 401")] = True
    batch_period: Annotated[
        Duration | None,
        Meta(description="how long this site's events wait in batch connections; overrides the connections' period"),
    ] = None
    dedupe_window: Annotated[Duration, Meta(description="a messageId is delivered once within this time; 0 turns it off")] = (
        field(default_factory=lambda: Duration(3600))
    )
    ip: Annotated[Literal["keep", "truncate", "drop"], Meta(description="what happens to the client's address")] = "keep"
    bots: Annotated[Literal["keep", "drop", "refuse"], Meta(description="what happens to requests of known bots")] = "keep"
    max_clock_skew: Annotated[
        Duration,
        Meta(
            description="how far a client's clock (`sentAt`) may be off to be corrected; beyond it times stay as sent; 0: never"
        ),
    ] = field(default_factory=lambda: Duration(86_400))
    where: Annotated[
        Any, Meta(description="conditions an event must meet to go to any connection of the site; see docs/routing.md")
    ] = None
    tracking_plan: Annotated[
        str | None, Meta(description="name of the plan that its events must follow; see docs/tracking_plans.md")
    ] = None
    browser: Annotated[BrowserOptions, Meta(description="the script of its pages")] = field(default_factory=BrowserOptions)
    catalog: Annotated[
        Literal["samples", "types", "off"],
        Meta(
            description="what the catalogue keeps of its events. samples: names, types of properties, and one masked event of each name. types: without that. off: nothing"
        ),
    ] = "samples"
    archive: Annotated[bool, Meta(description="false: its events are not archived; see docs/archive.md")] = True
    shards: Annotated[int, Meta(ge=1, le=16, description="routers that share its events, by user; see docs/scaling.md")] = 1
    require_id: Annotated[bool, Meta(description="refuse events with neither userId nor anonymousId")] = True
    snowplow: Annotated[Snowplow, Meta(description="how it takes events of Snowplow's trackers")] = field(
        default_factory=Snowplow
    )
    limits: Annotated[SiteLimits, Meta(description="bounds of the events that the site accepts")] = field(
        default_factory=SiteLimits
    )


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds of a batch: it is loaded at the first that it reaches."""

    period: Annotated[Duration, Meta(description="how long the first event of a batch waits; 1s to 24h")] = field(
        default_factory=lambda: Duration(300)
    )
    max_rows: Annotated[int, Meta(ge=1, le=10_000_000, description="events in a batch")] = 100_000
    max_bytes: Annotated[
        ByteSize, Meta(description="bytes that wait for a batch, packed as they travel (about a fifth of the events' JSON)")
    ] = field(default_factory=lambda: ByteSize(64 * 1024 * 1024))


class DeadLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of dead letters that stops a connection, so that a bad deploy buries minutes of events and not a day."""

    ratio: Annotated[float, Meta(gt=0, le=1, description="share of the events that die")] = 0.5
    events: Annotated[int, Meta(ge=1, description="fewer events than this never stop it")] = 1000
    period: Annotated[Duration, Meta(description="how far back events count; 1s to 24h")] = field(
        default_factory=lambda: Duration(300)
    )


class Connection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The link from a site to a destination, with the rules of processing."""

    site: Annotated[str, Meta(description="name of the site; or `from` instead")] = ""
    from_: Annotated[From | None, Meta(description="instead of a site: problems of all sites; docs/problems.md")] = field(
        default=None, name="from"
    )
    destination: Annotated[str, Meta(description="name of the destination")]
    enabled: Annotated[bool, Meta(description="false: no events are routed; what waits keeps waiting")] = True
    backfill: Annotated[
        Duration,
        Meta(description="how far back a new connection gets events that were accepted before it, as far as EVENTS keeps"),
    ] = field(default_factory=lambda: Duration(0))
    mode: Annotated[Mode, Meta(description="batch: every period. stream: as events come")] = "batch"
    batch: Annotated[Batch, Meta(description="bounds of a batch")] = field(default_factory=Batch)
    layout: Annotated[Layout, Meta(description="how an event becomes rows")] = "segment"
    table: Annotated[
        str | None,
        Meta(
            description="Jinja template of the table name, with `event` and `site`; empty result: the event is skipped and counted"
        ),
    ] = None
    primary_key: Annotated[
        list[str] | None,
        Meta(description="columns that identify a row; default: the column of the layout that holds the messageId"),
    ] = None
    deduplicate: Annotated[bool, Meta(description="true: merge on the primary key. false: append, the fast path")] = True
    discriminator: Annotated[
        str | None,
        Meta(description="column whose largest value wins among rows of one key; default: order of acceptance"),
    ] = None
    where: Annotated[Any, Meta(description="conditions an event must meet; see docs/routing.md")] = None
    on_conflict: Annotated[OnConflict, Meta(description="what happens to a value that does not fit its column")] = "unmapped"
    schema_policy: Annotated[SchemaPolicy, Meta(description="which changes of tables are allowed")] = "evolve"
    dead_limit: Annotated[
        DeadLimit | Literal["off"],
        Meta(description="when its dead letters stop the connection until a person lets it go on; `off`: never"),
    ] = field(default_factory=DeadLimit)
    max_columns: Annotated[
        int, Meta(ge=1, le=30_000, description="columns a table may grow to; further ones go to _unmapped_data")
    ] = 1000
    max_new_columns: Annotated[
        int,
        Meta(
            ge=1, le=30_000, description="new columns one event may add to a table; with more of them, all go to _unmapped_data"
        ),
    ] = 200
    max_tables: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="tables named by events that a connection may load; rows for others go to overflow_table",
        ),
    ] = 500
    overflow_table: Annotated[
        str, Meta(min_length=1, description="table of the events whose own table would be one more than max_tables")
    ] = "other_events"
    column_types: Annotated[dict[str, str], Meta(description="column name to SQL type, forced when the column is created")] = {}
    original_names: Annotated[bool, Meta(description="true: keys become column names as they are, without folding")] = False
    system_columns: Annotated[list[Literal["_loaded_at", "_seq", "_load_id"]], Meta(description="columns the loader adds")] = []
    sample: Annotated[float, Meta(gt=0, le=1, description="share of users whose events are delivered; stable per user")] = 1.0
    integrations: Annotated[
        bool,
        Meta(
            description="true: events whose `integrations` object says false to the connection, the destination or its type are left out"
        ),
    ] = False
    consent: Annotated[
        list[str],
        Meta(
            description="categories that an event's `context.consent.categoryPreferences` or `context.consentManagement` must grant; events without them pass"
        ),
    ] = []
    lookups: Annotated[
        list[LookupUse], Meta(description="columns of tables that every event gets, before privacy rules; see docs/lookups.md")
    ] = []
    privacy: Annotated[
        list[PrivacyRule], Meta(description="rules for fields of every event, applied in this order before functions see it")
    ] = []
    functions: Annotated[list[str], Meta(description="functions that every event goes through, in this order")] = []
    functions_env: Annotated[
        dict[str, str | int | float | bool | None],
        Meta(
            description="values that the connection's functions see as `ctx.props`; for a secret write ${NAME}",
            extra={"secret": True},
        ),
    ] = {}
    on_error: Annotated[
        OnError,
        Meta(
            description="what becomes of an event on which a function throws. pass: it goes on as it came into the function. dead_letter, drop: it ends there"
        ),
    ] = "pass"
    function_timeout: Annotated[Duration, Meta(description="CPU time that the functions have for one event; 10ms to 60s")] = (
        field(default_factory=lambda: Duration(1))
    )
    shards: Annotated[
        int, Meta(ge=1, le=16, description="loaders that share its events, by user; see docs/scaling.md#shards-of-a-connection")
    ] = 1
    identity: Annotated[
        Identity | None,
        Meta(description="earlier events of an anonymous visitor get the user id that is learned later; see docs/identity.md"),
    ] = None

    @property
    def through_functions(self) -> bool:
        """Whether it sends its events through functions_runtime: functions, lookups, privacy rules, identity."""
        return bool(self.functions or self.lookups or self.privacy or self.identity)


RESERVED = Site(dedupe_window=Duration(7 * 86_400), require_id=False)
"""A site of problems (`shared/project/problems.py`). Its window is as long as EVENTS keeps frames: a problem becomes one event."""


class Project(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole project file."""

    sites: Annotated[dict[str, Site], Meta(description="push sources by name")] = {}
    destinations: Annotated[
        dict[str, dict[str, Any]], Meta(description="destinations by name: `type` and the options of that type")
    ] = {}
    functions: Annotated[dict[str, Function], Meta(description="code that connections name, by name")] = {}
    connections: Annotated[dict[str, Connection], Meta(description="links from sites to destinations by name")] = {}
    connectors: Annotated[
        dict[str, dict[str, Any]], Meta(description="pull sources by name: `type` and the options of that type")
    ] = {}
    syncs: Annotated[dict[str, Sync], Meta(description="links from connectors to destinations by name")] = {}
    feeds: Annotated[
        dict[str, dict[str, Any]],
        Meta(description="endless sources by name: `site`, `type` and the options of that type; their records become events"),
    ] = {}
    lookups: Annotated[
        dict[str, Lookup], Meta(description="tables that connections look events up in, by name; see docs/lookups.md")
    ] = {}
    tracking_plans: Annotated[dict[str, TrackingPlan], Meta(description="which events sites expect, by name")] = {}
    webhooks: Annotated[dict[str, Webhook], Meta(description="addresses at which other systems deliver, by name")] = {}
    archive: Annotated[
        ArchiveOptions | Literal["off"] | None,
        Meta(
            description="where accepted events are archived; `off`: nowhere. Default: as the routers are set up, see docs/archive.md"
        ),
    ] = None
    alerts: Annotated[
        dict[str, dict[str, Any]],
        Meta(description="who is told what is wrong, by name: `type` of the channel, its options, and the rules of every alert"),
    ] = {}

    devices: Annotated[
        dict[str, DeviceConnection],
        Meta(description="connections to device destinations, which no service works on", extra={"derived": True}),
    ] = {}

    def through_functions(self, connection: Connection) -> bool:
        """Whether events of a connection go through functions_runtime, for its own sake or for a webhook of its site that hydrates."""
        return connection.through_functions or any(self.hydrates(connection.site))

    def hydrates(self, site: str) -> dict[str, Hydrate]:
        """Returns the hydration of a site's webhooks, by name."""
        return {name: each.hydrate for name, each in self.webhooks.items() if each.hydrate is not None and each.site == site}

    @property
    def every_site(self) -> dict[str, Site]:
        """The sites, and the reserved ones from which connections get problems."""
        reserved = {each.site: RESERVED for each in self.connections.values() if is_reserved(each.site)}
        return {**self.sites, **reserved}
