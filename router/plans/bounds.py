"""Bounds of a schema, so that no schema of a plan can take long for an event.

A schema is refused that is large, deep or refers to itself, and one whose references, followed, give more than `MOST_NODES` schemas:
references that branch can double the work at each step. Expressions are matched in time that grows with the text alone (the
`regex` crate), and their programs are bounded too. No reference leaves the schema, so nothing is fetched.
"""

from __future__ import annotations

from typing import Any

MOST_NODES = 20_000
MOST_DEPTH = 64
MOST_ENTRIES = 200_000
REGEX_BYTES = 1 << 20


class UnboundedError(Exception):
    """A schema is beyond the bounds; the text says how, and where."""


def check_bounds(schema: object) -> None:
    """Looks at a schema without compiling it.

    Raises:
        UnboundedError: it is too large or too deep, refers to itself, or to something outside of itself.
    """
    _check_size(schema)
    if isinstance(schema, dict):
        _Walk(schema).count(schema, (), 0, "")


def _check_size(schema: object) -> None:
    left, waiting = MOST_ENTRIES, [(schema, 0)]
    while waiting:
        node, depth = waiting.pop()
        inner = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
        left -= len(inner) + 1
        if left < 0:
            raise UnboundedError(f"it has more than {MOST_ENTRIES} entries")
        if depth > MOST_DEPTH:
            raise UnboundedError(f"it nests deeper than {MOST_DEPTH}")
        waiting.extend((each, depth + 1) for each in inner)


class _Walk:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._left = MOST_NODES

    def count(self, node: object, following: tuple[str, ...], depth: int, place: str) -> None:
        """Follows every reference below a node."""
        self._left -= 1
        if self._left < 0:
            raise UnboundedError(f"its references, followed, give more than {MOST_NODES} schemas")
        if depth > 4 * MOST_DEPTH:
            raise UnboundedError(f"its references, followed, nest deeper than {4 * MOST_DEPTH}")
        if isinstance(node, list):
            for index, each in enumerate(node):
                self.count(each, following, depth + 1, f"{place}[{index}]")
            return
        if not isinstance(node, dict):
            return
        for word in ("$ref", "$dynamicRef", "$recursiveRef"):
            target = node.get(word)
            if isinstance(target, str):
                if target in following:
                    raise UnboundedError(
                        f"{place.lstrip('.') or 'it'} refers to itself by {target!r}: write out the levels that you need"
                    )
                self.count(self._at(target, place), (*following, target), depth + 1, target)
        for key, value in node.items():
            if key not in (
                "const",
                "enum",
                "default",
                "examples",
                "$defs",
                "definitions",
                "$ref",
                "$dynamicRef",
                "$recursiveRef",
            ):
                self.count(value, following, depth + 1, f"{place}.{key}")

    def _at(self, target: str, place: str) -> object:
        if not target.startswith("#/") and target != "#":
            text = "write references as `#/$defs/NAME`: schemas lie in the plan, and nothing is fetched"
            raise UnboundedError(f"{place.lstrip('.') or 'it'} refers to {target!r}; {text}")
        node: object = self._root
        for step in target.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            else:
                raise UnboundedError(f"{place.lstrip('.') or 'it'} refers to {target!r}, which is not there")
        return node
