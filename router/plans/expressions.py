"""How long an expression can take for each character of a text.

The validator's expressions take time that grows with the text alone, but what a character takes grows with the places in the expression that a
match can be at. Repetitions inside of repetitions are worst.
"""

from __future__ import annotations

from typing import NamedTuple

ONE, NESTED = 0.5, 5.0
"""Units for each place, and where a repetition stands inside of another."""


class _Part(NamedTuple):
    places: float
    repeats: bool = False
    nested: bool = False


def character_units(pattern: str) -> float:
    """Returns the units of `weight.py` that one character takes at most, about."""
    places, nested = _measure(pattern)
    return 1 + places * (NESTED if nested else ONE)


def _measure(pattern: str) -> tuple[float, bool]:
    groups: list[list[_Part]] = [[]]
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == "(":
            groups.append([])
            at += 1
            if pattern[at : at + 1] == "?":
                at = _after_flags(pattern, at)
        elif sign == ")" and len(groups) > 1:
            groups[-2].append(_joined(groups.pop()))
            at += 1
        elif sign in "*+?{" and groups[-1] and (counted := _times(pattern, at)) is not None:
            times, at = counted
            part = groups[-1].pop()
            groups[-1].append(_Part(part.places * max(times, 1), part.repeats or times != 0, part.nested or part.repeats))
        else:
            at = _after_class(pattern, at) if sign == "[" else at + (2 if sign == "\\" else 1)
            groups[-1].append(_Part(1))
    while len(groups) > 1:
        groups[-2].append(_joined(groups.pop()))
    whole = _joined(groups[0])
    return whole.places, whole.nested


def _joined(parts: list[_Part]) -> _Part:
    return _Part(sum(each.places for each in parts) or 1, any(each.repeats for each in parts), any(each.nested for each in parts))


def _times(pattern: str, at: int) -> tuple[float, int] | None:
    """Returns how often a quantifier repeats, an endless one as often as it must, and where it ends; None: no quantifier."""
    if pattern[at] != "{":
        return (0 if pattern[at] == "?" else 1), at + 1
    end = pattern.find("}", at)
    bounds = pattern[at + 1 : end].split(",") if end > 0 else []
    if not bounds or len(bounds) > 2 or not all(each.strip().isdecimal() or not each for each in bounds):
        return None
    return max((float(each) for each in bounds if each), default=1.0), end + 1


def _after_flags(pattern: str, at: int) -> int:
    """Returns where a group's own text begins: `(?:`, `(?i:`, `(?P<name>`."""
    for place in range(at, min(at + 64, len(pattern))):
        if pattern[place] in ":>)":
            return place if pattern[place] == ")" else place + 1
    return at + 1


def _after_class(pattern: str, at: int) -> int:
    """Returns what follows a `[…]`."""
    depth, place = 0, at
    while place < len(pattern):
        sign = pattern[place]
        if sign == "\\":
            place += 1
        elif sign == "[":
            depth += 1
        elif sign == "]" and place > at + 1:
            depth -= 1
            if not depth:
                return place + 1
        place += 1
    return place
