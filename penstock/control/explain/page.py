"""What a connection to a device destination does with an event: the page's script judges, with the rules that the router has too."""

from __future__ import annotations

from penstock.control.explain.routing import asked
from penstock.control.explain.steps import RouteStep, Way
from router.rules.arrival import Arrival
from router.rules.compiled import ConnectionRules
from router.rules.where import compile_where
from shared.devices.connections import IN_THE_BROWSER
from shared.events.outcome import DropReason
from shared.project.model import Project


def in_page(project: Project, name: str, arrival: Arrival) -> Way:
    """Returns the way of an event to a device destination.

    Raises:
        Permanent, msgspec.DecodeError, UnicodeDecodeError: the event cannot be read.
    """
    connection = project.devices[name]
    type_name = str(project.destinations[connection.destination]["type"])
    way = Way(connection=name, destination=connection.destination, type=type_name, result="page", detail=IN_THE_BROWSER)
    if not connection.enabled:
        way.result, way.detail = "disabled", ""
        return way
    names = frozenset({name, connection.destination, type_name}) if connection.integrations else frozenset[str]()
    rules = ConnectionRules(
        name=name,
        revision=0,
        predicate=compile_where(connection.where, f"connections.{name}.where"),
        consent=tuple(connection.consent),
        integrations=names,
    )
    way.route = [step for step in asked(rules, connection, project.sites[connection.site], arrival) if step.step != "suppressed"]
    wanted = arrival.event(0).get("integrations")
    if names and isinstance(wanted, dict):
        all_off = wanted.get("All") is False or wanted.get("all") is False
        if all_off and not any(wanted.get(each) for each in names):
            detail = f"its `integrations` say false for All, and true for none of {', '.join(sorted(names))}"
            way.route.append(RouteStep(step="integrations", verdict="drops", reason=DropReason.INTEGRATIONS, detail=detail))
    for step in way.route:
        if step.verdict == "drops":
            way.result, way.reason, way.detail = "dropped", step.reason, step.detail
            break
    return way
