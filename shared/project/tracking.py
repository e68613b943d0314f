"""Tracking plans as a project file says them: which events a site expects, and what happens to others.

What a plan does to events: `router/plans/`. The command reads the files of plans when it loads a project file
(`penstock/control/project/planned.py`), and their content travels in the applied project, so services need no files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.errors import Problem
from shared.reading.decode import meant

if TYPE_CHECKING:
    from shared.project.model import Project

Action = Literal["report", "strip", "drop", "dead_letter"]
UnplannedEvents = Literal["allow", "report", "drop", "dead_letter"]
UnplannedProperties = Literal["allow", "report", "strip", "drop", "dead_letter"]

TYPES = ("identify", "group", "page", "screen")
"""Types of events that a plan has one rule for; tracks have one for each name."""


class PlannedEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plan says of one event: a JSON Schema of its `properties`, or of the `traits` of an identify or group."""

    description: Annotated[str, Meta(description="what the event means, for people")] = ""
    schema: Annotated[
        dict[str, Any], Meta(description="JSON Schema of `properties`, or `traits`; 2020-12 unless its `$schema` says another")
    ] = {}
    on_violation: Annotated[Action | None, Meta(description="as in the plan, for this event")] = None
    unplanned_properties: Annotated[UnplannedProperties | None, Meta(description="as in the plan, for this event")] = None


class TrackingPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The events that sites expect; see docs/tracking_plans.md."""

    file: Annotated[
        str | None,
        Meta(
            description="YAML or JSON file with the other keys of a plan, or a folder with a JSON Schema for each event; its path begins where the project file is"
        ),
    ] = None
    on_violation: Annotated[
        Action,
        Meta(
            description="what happens to an event that breaks its schema. report: it goes on. strip: without the values at fault. drop: it is dropped. dead_letter: it becomes a dead letter"
        ),
    ] = "report"
    unplanned_events: Annotated[
        UnplannedEvents, Meta(description="what happens to a track event that the plan does not name; allow: nothing")
    ] = "report"
    unplanned_properties: Annotated[
        UnplannedProperties,
        Meta(description="what happens to properties that a schema with `properties` does not name; allow: nothing"),
    ] = "report"
    events: Annotated[dict[str, PlannedEvent], Meta(description="track events by name, as clients send it")] = {}
    identify: Annotated[PlannedEvent | None, Meta(description="`traits` of identify events; without it they are not checked")] = (
        None
    )
    group: Annotated[PlannedEvent | None, Meta(description="`traits` of group events")] = None
    page: Annotated[PlannedEvent | None, Meta(description="`properties` of page events")] = None
    screen: Annotated[PlannedEvent | None, Meta(description="`properties` of screen events")] = None


def check_plans(project: Project) -> Iterator[Problem]:
    """Yields the sites that name no plan of the project."""
    for name, site in project.sites.items():
        plan = site.tracking_plan
        if plan is not None and plan not in project.tracking_plans:
            known = ", ".join(sorted(project.tracking_plans)) or "none"
            text = f"no tracking plan is named {plan!r};{meant(plan, project.tracking_plans)} known: {known}"
            yield Problem(f"sites.{name}.tracking_plan", text)
