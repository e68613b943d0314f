"""Subjects: a plug-in with the options of a fresh place, and a way to look at that place without the plug-in.

A subject reads rows back with a driver or reader of its own, so that no plug-in vouches for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from loader import registry
from loader.contract.warehouse import (
    Kind,
)

Row = dict[str, Any]
Shape = Mapping[str, Kind]


def can(type_name: str, capability: str) -> bool:
    """Tells whether destinations of a type can do something: `merge` also where it becomes true later."""
    return getattr(registry.plugin(type_name).CAPABILITIES, capability) not in (False, "no")


class Subject(Protocol):
    """A plug-in under test."""

    label: str
    document: dict[str, Any]

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        """Returns all rows of a table, in any order, values as Python's own types; [] where there is no table."""
        ...

    async def run(self, statement: str) -> None:
        """Runs SQL behind the plug-in's back; `{}` stands for the schema."""
        ...
