"""The rules of a project, compiled for routing: which events each connection lets pass.

`penstock apply` compiles a project as the router does, so both refuse the same things.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Literal

from router.plans.compiled import Plan, compile_plan
from router.rules.gate import Gate, Known
from router.rules.spread import Spread
from router.rules.view import compile_view
from router.rules.where import Predicate, compile_where
from shared.errors import ConfigError, Problem
from shared.events.event import JSON
from shared.events.shards import Split
from shared.forget.ids import Forgotten
from shared.project.model import Connection, Project, Site
from shared.project.problems import are_wanted, is_reserved
from shared.project.shards import connection_of_shard, number_of_shard, shard_names
from shared.project.snapshot import ConfigSnapshot
from shared.rules.consent import is_named, refused


@dataclass(frozen=True, slots=True)
class ConnectionRules:
    """The rules of one enabled connection. They are asked in this order: forgotten, gate, consent, the integrations object, `where`, sampling."""

    name: str
    revision: int
    """Revision of the project; part of the id of every frame published under it."""
    queue: str = ""
    """Name of the connection's queue (`shared.jetstream.topology.queue_of`)."""
    predicate: Predicate | None = None
    backfill_seconds: float = 0.0
    """How far back a new connection gets frames."""
    sample: float = 1.0
    consent: tuple[str, ...] = ()
    integrations: frozenset[str] = frozenset()
    """Names under which an event can exclude the connection; empty: it cannot."""
    through_functions: bool = False
    """True: its frames go to its functions, or privacy rules, before its destination gets them."""
    forgotten: Forgotten = field(default_factory=Forgotten, compare=False, repr=False)
    """Ids whose events no connection gets; it changes while the rules stay."""
    gate: Gate | None = None
    """The rules of its site; None: the site has none."""
    known: Known = field(default_factory=dict, compare=False, repr=False)
    shards: int = 1
    """How many loaders share the connection now."""
    spread: Spread | None = None
    """Which of these it is; None: the connection always had one. As compiled it holds for all sequences; `Forwarders` knows better."""

    @property
    def needs_heads(self) -> bool:
        """False: the connection takes whole frames."""
        rules = self.predicate is not None or self.sample < 1 or self.needs_bodies or self.gate is not None
        return rules or self.spread is not None or bool(self.forgotten)

    @property
    def needs_bodies(self) -> bool:
        """True: the rules ask for each event's consent or integrations object."""
        return bool(self.consent or self.integrations)

    def may_lack_consent(self, body: bytes, context: Container[str]) -> bool:
        """Whether the JSON must be read for `lacks_consent`; `context` is what the request says of all of its events."""
        return bool(self.consent) and is_named(body, context)

    def lacks_consent(self, event: JSON) -> list[str]:
        """Returns the connection's categories that the event's person refuses."""
        return refused(self.consent, event.get("context")) if self.consent else []


@dataclass(frozen=True, slots=True)
class SiteRules:
    """The connections of one site. `disabled` ones get no events, but keep their state."""

    site: str
    dedupe_seconds: float
    connections: Mapping[str, ConnectionRules]
    disabled: frozenset[str] = frozenset()
    gate: Gate | None = None
    """The rules of the site itself."""
    revision: int = 0
    """Of the project."""
    catalog: Literal["samples", "types", "off"] = "off"
    """What the catalogue keeps of the site's events."""
    reports: bool = False
    """A connection takes violations of tracking plans, so they are told."""
    forgotten: Forgotten = field(default_factory=Forgotten, compare=False, repr=False)


def compile_project(snapshot: ConfigSnapshot, forgotten: Forgotten | None = None) -> dict[str, SiteRules]:
    """Returns the rules of every site; they leave out the events of forgotten ids.

    Raises:
        ConfigError: with every problem of every `where`, of sites and of connections, and of every plan that a site follows.
    """
    project = snapshot.project
    problems: list[Problem] = []
    connections: dict[str, dict[str, ConnectionRules]] = {site: {} for site in project.every_site}
    gates: dict[str, Gate | None] = {}
    plans = _plans(project, problems)
    for name, site in project.sites.items():
        try:
            gates[name] = _gate(name, site, plans.get(site.tracking_plan or ""))
        except ConfigError as exc:
            problems.extend(exc.problems)
    forgotten = Forgotten() if forgotten is None else forgotten
    for name, connection in project.connections.items():
        try:
            rules = _compile(name, connection, snapshot, forgotten, gate=gates.get(connection.site))
        except ConfigError as exc:
            problems.extend(exc.problems)
            continue
        if connection.enabled:
            connections[connection.site][name] = rules
    if problems:
        raise ConfigError(problems)
    return {
        name: SiteRules(
            name,
            float(site.dedupe_window),
            connections[name],
            frozenset(key for key, value in project.connections.items() if value.site == name and not value.enabled),
            gate=gates.get(name),
            revision=snapshot.revision,
            catalog="off" if is_reserved(name) else site.catalog,
            reports=are_wanted(project.connections, "violations"),
            forgotten=forgotten,
        )
        for name, site in project.every_site.items()
    }


def _plans(project: Project, problems: list[Problem]) -> dict[str, Plan]:
    """Returns the plans that sites follow; adds what is wrong with them."""
    found: dict[str, Plan] = {}
    for name in {site.tracking_plan for site in project.sites.values()} & project.tracking_plans.keys():
        try:
            found[str(name)] = compile_plan(str(name), project.tracking_plans[str(name)])
        except ConfigError as exc:
            problems.extend(exc.problems)
    return found


def _gate(name: str, site: Site, plan: Plan | None) -> Gate | None:
    where = compile_where(site.where, f"sites.{name}.where")
    if plan is None:
        return None if where is None else Gate(where)
    return Gate(where, plan, compile_view(plan.paths or {("properties",)}))


def _compile(
    name: str, connection: Connection, snapshot: ConfigSnapshot, forgotten: Forgotten, *, gate: Gate | None
) -> ConnectionRules:
    base = connection_of_shard(name)
    siblings = tuple(shard_names(snapshot.project.connections, base))
    destination_type = str(snapshot.project.destinations.get(connection.destination, {}).get("type", ""))
    return ConnectionRules(
        name=name,
        revision=snapshot.revision,
        queue=snapshot.queue_of(name),
        predicate=compile_where(connection.where, f"connections.{name}.where"),
        backfill_seconds=float(connection.backfill),
        sample=connection.sample,
        consent=tuple(connection.consent),
        through_functions=snapshot.project.through_functions(connection),
        forgotten=forgotten,
        gate=gate,
        shards=connection.shards,
        spread=Spread(base, number_of_shard(name), (Split(1, connection.shards),), siblings) if len(siblings) > 1 else None,
        integrations=frozenset({base, connection.destination, destination_type} if connection.integrations else ()),
    )
