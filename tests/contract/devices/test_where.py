"""`where` means the same in a page as in the router: the same conditions on the same events, both judged."""

from __future__ import annotations

from typing import Any

import pytest

from router.rules.where import compile_where
from shared.events.frame import Head
from tests.e2e.browser.stand import Stand

in_page = pytest.mark.asyncio(loop_scope="module")

VALUES: list[Any] = [
    None, True, False, 0, 1, 1.5, -3, 2**53, "", "a", "abc", "ABC", "1", "😀", "\uffff", "a\nb", "2026-03-01T12:00:00Z",
    "2026-03-01T13:00:00+01:00", "2026-03-01T12:00:00.000001Z", "2026-03-01 12:00:00", "2026-03-01", "x]", "[a]", "a-c", "*", "a.c", [], ["a", 1, None],
    [True], {}, {"a": 1},
]  # fmt: skip
OPERANDS: list[Any] = ["a", "", "😀", "\uffff", 1, 1.0, 0, True, "2026-03-01T12:00:00Z", "2026-03-01T12:00:00.000001+00:00"]
CONDITIONS: list[dict[str, Any]] = [
    *({name: operand} for name in ("eq", "ne", "contains") for operand in OPERANDS),
    *({name: [operand, "abc"]} for name in ("in", "not_in") for operand in OPERANDS),
    *({name: each} for name in ("gt", "gte", "lt", "lte") for each in OPERANDS if not isinstance(each, bool)),
    *({name: text} for name in ("starts_with", "ends_with") for text in ("a", "c", "", "😀")),
    *(
        {"matches": glob}
        for glob in (
            "*",
            "?",
            "a*",
            "*c",
            "a?c",
            "[a-c]*",
            "[!a]*",
            "[]]*",
            "x[]]",
            "[[]a]",
            "[a",
            "a.c",
            "*\n*",
            "\\*",
            "[*]",
            "[a-]?[a-c]",
            "(a|b)*",
            "[^a]*",
            "[\\]*",
        )
    ),
    *({"exists": each} for each in (True, False)),
    *({"type": each} for each in ("string", "number", "boolean", "object", "array", ["string", "array"])),
    {"gt": 0, "lt": 2},
]
SHAPES: list[Any] = [
    [],
    [{"field": "a", "eq": 1}, {"field": "b.0", "eq": "x"}],
    {"all": [{"field": "a", "gt": 0}, {"not": {"field": "c", "exists": True}}]},
    {"any": [{"field": "a", "eq": 5}, {"field": ["d", "e.f"], "eq": True}]},
    {"not": {"any": [{"field": "b.1.y", "eq": 2}, {"field": "b.9", "exists": True}]}},
    {"field": "constructor", "exists": True},
    {"field": "b.length", "exists": True},
    {"field": "b.01", "exists": True},
]
EVENTS: list[dict[str, Any]] = [
    {"a": 1, "b": ["x", {"y": 2}], "d": {"e.f": True}},
    {"a": 5, "b": [], "c": None},
    {"a": 1, "b": ["x"], "c": 1, "d": {"e.f": 1}},
    {},
]


@in_page
async def test_pages_judge_conditions_as_the_router_does(shop: Stand) -> None:
    cases = [({"field": "v", **condition}, {"v": value}) for condition in CONDITIONS for value in VALUES]
    cases += [(where, event) for where in SHAPES for event in EVENTS]
    head = Head("m", "track")
    expected = []
    for where, event in cases:
        predicate = compile_where(where, "where")
        expected.append(predicate is None or bool(predicate.on_event(head, event)))
    page = await shop.opened(shop.put("/where", ""))
    found = await page.evaluate(
        f"""async (cases) => {{ const {{wants}} = await import("{shop.edge.url}/p/m/devices.mjs")
        return cases.map(([where, event]) => wants({{consent: [], integrations: false, names: [], where}}, event)) }}""",
        cases,
    )
    different = [(case, mine) for case, mine, theirs in zip(cases, expected, found, strict=True) if mine != theirs]
    assert different == []
