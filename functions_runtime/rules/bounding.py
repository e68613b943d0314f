"""Keeps the frame that goes on within what a frame may hold. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate
from shared.events.frame import MOST_EVENTS
from shared.events.outcome import DeadReason

if TYPE_CHECKING:
    from functions_runtime.rules.packing import Prepared


def bound(prepared: Prepared, fates: dict[int, Fate], most_bytes: int) -> None:
    """Makes dead letters of the events that grew most, where the frame that goes on would be too large."""
    most = sum(map(len, prepared.bodies)) + sum([len(output) for fate in fates.values() for output in fate.outputs])
    if most <= most_bytes and len(fates) + sum([len(fate.outputs) for fate in fates.values()]) <= MOST_EVENTS:
        return  # nearly always
    going = {index: fate for index, fate in fates.items() if fate.kind in (wire.SAME, wire.OUTPUTS)}
    sizes = {
        index: sum(map(len, fate.outputs)) if fate.kind == wire.OUTPUTS else len(prepared.bodies[index])
        for index, fate in going.items()
    }
    counts = {index: len(fate.outputs) if fate.kind == wire.OUTPUTS else 1 for index, fate in going.items()}
    total, events = sum(sizes.values()), sum(counts.values())
    for index in sorted(sizes, key=lambda each: (-counts[each], -sizes[each]) if events > MOST_EVENTS else (0, -sizes[each])):
        if total <= most_bytes and events <= MOST_EVENTS:
            return
        total -= sizes[index]
        events -= counts[index]
        detail = f"{len(fates[index].outputs)} events of {sizes[index]} bytes do not fit beside the others of their frame"
        fates[index] = Fate(wire.DEAD, function=fates[index].function, reason=DeadReason.FUNCTION_RESULT, detail=detail)
