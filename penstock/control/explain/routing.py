"""Asks the router's questions one by one: which condition fails, which consent is missing, which name excludes the event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec

from penstock.control.explain.steps import RouteStep
from router.rules.arrival import Arrival
from router.rules.compiled import ConnectionRules
from router.rules.gate import Gate
from router.rules.match import gated_of, match
from router.rules.sample import place
from router.rules.where import compile_where
from shared.devices.connections import DeviceConnection
from shared.events.event import JSON
from shared.events.frame import Head
from shared.events.outcome import DropReason
from shared.events.shards import Shard, part_of
from shared.project.model import Connection, Site
from shared.project.shards import shard_name

ENDS = ("drops", "buries")
UNSEEN = "only a stack knows: `penstock suppress check ID`"


def asked(rules: ConnectionRules, connection: Connection | DeviceConnection, site: Site, arrival: Arrival) -> list[RouteStep]:
    """Returns the questions that a project asks about the only event of an arrival, in the router's order; at most one drops it.

    Raises:
        Permanent, msgspec.DecodeError, UnicodeDecodeError: the event cannot be read.
    """
    steps = [RouteStep(step="suppressed", verdict="unasked", detail=UNSEEN)]
    if rules.shards > 1 and rules.spread is None:
        number = part_of(arrival.heads[0].user_key, rules.shards)
        detail = f"{shard_name(rules.name, number)}, {Shard(number, rules.shards)}"
        steps.append(RouteStep(step="shard", verdict="passes", detail=detail))
    for name, alone in _questions(rules):
        if steps[-1].verdict in ENDS or (steps[-1].verdict == "unasked" and len(steps) > 1):
            steps.append(RouteStep(step=name, verdict="unasked"))
        elif alone is None:
            steps.append(_of_plan(rules, arrival))
        else:
            found = _left_out(alone, connection, site, arrival)
            steps.append(
                RouteStep(step=name, verdict="passes")
                if found is None
                else RouteStep(step=name, verdict="drops", reason=found[0], detail=found[1])
            )
    return steps


def _of_plan(rules: ConnectionRules, arrival: Arrival) -> RouteStep:
    """Returns what the site's tracking plan says; from here on the event is as the plan leaves it."""
    arrival.gated = None
    found = gated_of(rules.gate, rules.forgotten, arrival).verdicts.get(0) if rules.gate is not None else None
    if found is None:
        return RouteStep(step="tracking plan", verdict="passes")
    told = "; ".join(map(str, found.violations))
    if found.without:
        told += "; without " + ", ".join(".".join(map(str, path)) for path in found.without)
    verdict: Literal["passes", "drops", "buries"] = (
        "buries" if found.action == "dead_letter" else "drops" if found.action == "drop" else "passes"
    )
    return RouteStep(
        step="tracking plan", verdict=verdict, reason="" if verdict == "passes" else DropReason.TRACKING_PLAN, detail=told
    )


def _questions(rules: ConnectionRules) -> list[tuple[str, ConnectionRules | None]]:
    """Returns a connection's questions, each as rules that ask nothing else; None: the plan is asked."""
    bare = replace(rules, gate=None, consent=(), integrations=frozenset(), predicate=None, sample=1.0, known={}, spread=None)
    found: list[tuple[str, ConnectionRules | None]] = []
    if rules.spread is not None:
        found.append(("shard", replace(bare, spread=rules.spread)))
    if rules.gate is not None and rules.gate.where is not None:
        found.append(("site where", replace(bare, gate=Gate(rules.gate.where))))
    if rules.gate is not None and rules.gate.plan is not None:
        found.append(("tracking plan", None))
    if rules.consent:
        found.append(("consent", replace(bare, consent=rules.consent)))
    if rules.integrations:
        found.append(("integrations", replace(bare, integrations=rules.integrations)))
    if rules.predicate is not None:
        found.append(("where", replace(bare, predicate=rules.predicate)))
    if rules.sample < 1:
        found.append(("sample", replace(bare, sample=rules.sample)))
    return found


def _left_out(
    rules: ConnectionRules, connection: Connection | DeviceConnection, site: Site, arrival: Arrival
) -> tuple[str, str] | None:
    """Returns the reason and its details if a connection leaves out the only event of an arrival; None: it takes the event."""
    matched = match(rules, arrival)
    reason = next(iter(matched.drops), None)
    if reason is None:
        return None
    if matched.errors:
        return reason, "the event cannot be read, and a filter needs it"
    head, event = arrival.heads[0], arrival.event(0)
    match reason:
        case DropReason.SITE_FILTERED:
            return reason, "; ".join(failing(site.where, f"sites.{connection.site}.where", head, event))
        case DropReason.OTHER_SHARD:
            return reason, f"its user belongs to shard {part_of(head.user_key, rules.shards) + 1} of {rules.shards}"
        case DropReason.SAMPLED:
            return reason, f"sample is {rules.sample:g}, and the user's place is {place(head.user_key):.3f}"
        case DropReason.CONSENT:
            return reason, "no consent to " + ", ".join(rules.lacks_consent(event))
        case DropReason.INTEGRATIONS:
            named = sorted(name for name in rules.integrations if event["integrations"].get(name) is False)
            return reason, "its `integrations` say false for " + (", ".join(named) or "Warehouses.all")
        case _:
            return reason, "; ".join(failing(connection.where, "where", head, event))


def failing(where: Any, path: str, head: Head, event: JSON) -> Iterator[str]:
    """Yields the conditions that an event does not meet, each with its path and what the event has there."""
    predicate = compile_where(where, path)
    if predicate is None or predicate.on_event(head, event):
        return
    members = where if isinstance(where, list) else where.get("all")
    if members is not None:
        inner = path if isinstance(where, list) else f"{path}.all"
        for index, member in enumerate(members):
            yield from failing(member, f"{inner}[{index}]", head, event)
        return
    found = f"; the event has {_json(value_at(event, where['field']))}" if "field" in where else ""
    yield f"{path} {_json(where)} fails{found}"


def value_at(event: Mapping[str, Any], field: str | list[str]) -> Any:
    """Returns the value that a condition looks at; None: there is none."""
    value: Any = event
    for key in field.split(".") if isinstance(field, str) else field:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _json(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()
