"""What every connection of a site would do with one event, without a stack and without effects.

The code of the services decides: the edge's judge, the router's rules, the sandbox, the loader's shaping, and the calls of
destinations. Only the window of duplicates and the list of suppressed people are not asked, and existing tables are not read.
"""

from __future__ import annotations

import msgspec

from functions_runtime.definition import definitions
from functions_runtime.rules.hydrating import PREFIX
from functions_runtime.rules.packing import Retry
from loader import registry
from penstock.control.explain.edge import judge, judge_delivery
from penstock.control.explain.landing import call, land
from penstock.control.explain.page import in_page
from penstock.control.explain.passage import passed, stitched
from penstock.control.explain.routing import asked
from penstock.control.explain.steps import Explanation, Way
from router.rules.arrival import Arrival
from router.rules.compiled import ConnectionRules, compile_project
from shared.errors import ConfigError, PenstockError, Problem
from shared.events.frame import Frame, decode_frame
from shared.events.outcome import DropReason
from shared.project.model import Key, Project
from shared.project.snapshot import ConfigSnapshot


async def explain(
    body: bytes, project: Project, site: str, *, key: str | None = None, webhook: str | None = None, fetch: bool = False
) -> Explanation:
    """Returns what a site does with an event.

    Args:
        body: the event as a client sends it.
        project: with its variables put in.
        key: id of the key that the event is sent with; None: the site's first.
        webhook: name of a webhook of the site; the body is a delivery to it, and is judged by its rules.
        fetch: whether the requests of functions are really sent.

    Raises:
        ConfigError: no site, or no key or webhook of it, has that name; a function cannot be loaded.
        SetupError, Transient: functions cannot run here.
    """
    if site not in project.sites:
        raise ConfigError([Problem("--site", f"no site is named {site!r}; known: {', '.join(sorted(project.sites)) or 'none'}")])
    if webhook is not None:
        hooks = {name: each for name, each in project.webhooks.items() if each.site == site}
        if webhook not in hooks:
            known = ", ".join(sorted(hooks)) or "none"
            raise ConfigError([Problem("--webhook", f"site {site!r} has no webhook {webhook!r}; known: {known}")])
        judged, arrival = judge_delivery(body, webhook, hooks[webhook], project.sites[site])
    else:
        judged, arrival = judge(body, site, project.sites[site], _key(project, site, key))
    if arrival is None:
        return Explanation(site=site, edge=judged, connections=[])
    snapshot = ConfigSnapshot(0, project)
    rules = compile_project(snapshot)[site].connections
    ways = [
        await _way(snapshot, name, rules.get(name), arrival, fetch=fetch)
        for name, connection in project.connections.items()
        if connection.site == site
    ]
    ways += [in_page(project, name, arrival) for name, each in project.devices.items() if each.site == site]
    return Explanation(site=site, edge=judged, connections=ways)


def _key(project: Project, site: str, wanted: str | None) -> Key | None:
    keys = project.sites[site].keys
    for key in keys:
        if wanted is None or key.id == wanted:
            return key
    if wanted is None:
        return None
    raise ConfigError([Problem("--key", f"site {site!r} has no key {wanted!r}; known: {', '.join(key.id for key in keys)}")])


async def _way(snapshot: ConfigSnapshot, name: str, rules: ConnectionRules | None, arrival: Arrival, *, fetch: bool) -> Way:
    project = snapshot.project
    connection = project.connections[name]
    way = Way(
        connection=name,
        destination=connection.destination,
        type=str(project.destinations[connection.destination].get("type")),
    )
    if rules is None:
        way.result = "disabled"
        return way
    try:
        arrival = Arrival(arrival.seq, arrival.at_seconds, arrival.payload, with_heads=True)  # a tracking plan may change it
        way.route = asked(rules, connection, project.sites[connection.site], arrival)
        for step in way.route:
            if step.verdict in ("drops", "buries"):
                way.result = "dropped" if step.verdict == "drops" else "dead_letter"
                way.reason, way.detail = step.reason, step.detail
                return way
        frame = decode_frame(arrival.payload_of(None))
        if rules.through_functions:  # functions, lookups, rules, hydration, identity
            found = await _passed(way, snapshot, frame, fetch=fetch)
            if found is None:
                return way
            frame = found
        await _land(way, snapshot, frame)
    except ConfigError:
        raise
    except (PenstockError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        way.result, way.detail = "unknown", registry.mask_of(project.destinations[connection.destination]).text(str(exc))
    return way


async def _passed(way: Way, snapshot: ConfigSnapshot, frame: Frame, *, fetch: bool) -> Frame | None:
    """Returns what goes on behind rules and functions; None: nothing does."""
    definition = definitions(snapshot)[way.connection]
    finished = await passed(way, definition, frame, fetch=fetch)
    if len(finished.frame):
        identity = snapshot.project.connections[way.connection].identity
        way.identity = stitched(identity, finished.frame) if identity is not None else []
        return finished.frame
    if finished.letters:
        way.result = "dead_letter"
        way.reason, way.detail = finished.letters[0].reason, finished.letters[0].detail
    elif finished.retries:
        way.result, way.detail = "again_later", _told(finished.retries[0])
    else:
        last = way.functions[-1]
        way.result, way.reason = "dropped", next(iter(finished.frame.dropped), DropReason.FUNCTION)
        way.detail = f"by function {last.function}"
    return None


def _told(retry: Retry) -> str:
    return retry.message if retry.function.startswith(PREFIX) else f"function {retry.function}: {retry.message}"


async def _land(way: Way, snapshot: ConfigSnapshot, frame: Frame) -> None:
    capabilities = registry.takes_tables(way.type)
    if capabilities is not None:
        land(way, snapshot.project.connections[way.connection], capabilities, frame)
    else:
        await call(way, snapshot.project.destinations[way.destination], frame)
