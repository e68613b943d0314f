"""What `penstock explain` prints for people: a tree for each connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.control.wording import counted, cut
from penstock.terminal.screen import Screen

if TYPE_CHECKING:
    from penstock.control.explain.steps import Changed, Explanation, FunctionStep, IdentityStep, Way

VALUE_CHARACTERS = 80
ENDS = {
    "disabled": ("is disabled: takes nothing", "dim"),
    "dropped": ("drops it", "yellow"),
    "dead_letter": ("makes it a dead letter", "red"),
    "again_later": ("tries it again later; nothing goes on now", "yellow"),
    "loaded": ("loads it", "green"),
    "sent": ("sends it", "green"),
    "page": ("gets it in the page", "green"),
    "unknown": ("cannot be explained further here", "red"),
}


def show_explanation(screen: Screen, found: Explanation) -> None:
    """Prints the edge's verdict and every connection's way."""
    edge = found.edge
    if not edge.accepted:
        screen.say(f"edge of {found.site}: rejects it, a dead letter: {edge.reason}: {edge.detail}", "red")
        return
    named = f"{edge.type} {edge.event!r}" if edge.event else edge.type
    mended = ", its JSON mended" if edge.mended else ""
    screen.say(f"edge of {found.site}: accepts {named}, messageId {edge.message_id}{mended}", "green")
    for way in found.connections:
        words, style = ENDS[way.result]
        why = ": ".join(filter(None, (way.reason, way.detail)))
        screen.say(f"\n{way.connection} → {way.destination} ({way.type}) {words}" + (f": {why}" if why else ""), style)
        for line in _lines(way):
            screen.say(f"  {line}")


def _lines(way: Way) -> Iterator[str]:
    for question in way.route:
        told = "" if question.verdict == "unasked" else question.verdict
        if told or question.detail:
            yield f"{question.step}: " + ": ".join(filter(None, (told, question.detail)))
    for asked in way.hydration:
        what = (
            "not sent; --fetch sends it" if asked.result == "unasked" else ": ".join(filter(None, (asked.result, asked.detail)))
        )
        yield f"hydration of {asked.webhook}: GET {asked.address}: {what}"
        yield from (f"  {_changed(each)}" for each in asked.changed)
    for lookup in way.lookups:
        without = f": no row in {', '.join(lookup.missed)}" if lookup.missed else ""
        yield f"lookup {', '.join(lookup.tables)}{without}"
        yield from (f"  {_changed(each)}" for each in lookup.changed)
    for rule in way.rules:
        yield f"privacy {rule.do} {rule.field}" + (": finds nothing" if rule.missed else "")
        yield from (f"  {_changed(each)}" for each in rule.changed)
    for step in way.functions:
        yield from _function(step)
    yield from map(_identity, way.identity)
    for table in way.tables:
        how = f", {table.write} on {', '.join(table.key)}" if table.key else ""
        yield f"table {table.table}: {counted(table.rows, 'row')}{how}"
        width = max(len(column.column) for column in table.columns)
        kinds = max(len(column.type) for column in table.columns)
        for column in table.columns:
            values = " | ".join(_shown(value) for value in column.values)
            yield f"  {column.column:{width}}  {column.type:{kinds}}  {values}"
    for call in way.calls:
        yield f"call {call.method} {call.url}, {counted(call.events, 'event')}"
        yield from (f"  {name}: {value}" for name, value in call.headers.items())
        yield f"  {_shown(call.body, 2000)}"


def _function(step: FunctionStep) -> Iterator[str]:
    tried = step.tried
    many = f", {len(tried.events)} events go on" if len(tried.events) > 1 else ""
    yield f"function {step.function}: {tried.result}{many}, {tried.milliseconds:g} ms" + (
        f": {tried.reason}" if tried.reason else ""
    )
    yield from (f"  threw: {line}" for line in tried.errors)
    if tried.retry:
        yield f"  again later: {tried.retry}"
    yield from (f"  log: {line}" for line in tried.logs)
    yield from (f"  call: {line}" for line in tried.calls)
    if tried.store:
        yield f"  keeps: {_shown(tried.store)}"


def _identity(step: IdentityStep) -> str:
    if step.does == "none":
        return "identity: nothing to do, it has no anonymousId"
    back = f"{step.look_back_seconds / 86_400:g} days" if step.look_back_seconds >= 86_400 else f"{step.look_back_seconds:g} s"
    if step.does == "learns":
        return f"identity: tells that {step.anonymous_id} is {step.user_id}; what came from it in the last {back} goes again with that id"
    return f"identity: gets the user of {step.anonymous_id} if one is known, else is kept for {back} and goes again when one is"


def _changed(change: Changed) -> str:
    if change.after is msgspec.UNSET:
        return f"{change.field}: gone"
    if change.before is msgspec.UNSET:
        return f"{change.field}: new, {_shown(change.after)}"
    return f"{change.field}: {_shown(change.before)} → {_shown(change.after)}"


def _shown(value: Any, most: int = VALUE_CHARACTERS) -> str:
    return cut(msgspec.json.encode(value, enc_hook=str).decode(), most)
