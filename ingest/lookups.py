"""What a parser may look up beside keys: schemas of a site, and the events that were seen lately. Contracts only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol


class Checks(Protocol):
    """Schemas by name."""

    on_invalid: Literal["warn", "dead_letter"]

    def fault(self, name: str, data: bytes) -> str | None:
        """Returns what is wrong with data, None if they fit.

        Raises:
            KeyError: the schema is unknown.
        """
        ...


class Seen(Protocol):
    """What the edge took lately from Snowplow's trackers, for test suites."""

    def counts(self) -> dict[str, int]: ...

    def good(self, filters: Mapping[str, Any]) -> list[dict[str, Any]]: ...

    def bad(self, filters: Mapping[str, Any]) -> list[dict[str, Any]]: ...

    def reset(self) -> None: ...
