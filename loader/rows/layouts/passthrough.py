"""Layout `passthrough`: the event as it is, flattened, in the table `events` or wherever the template says.

No key is lifted, renamed or left out; `properties.total` is `properties_total`. Keys that the server sets have a fixed type.
"""

from __future__ import annotations

from loader.contract.warehouse import Kind
from loader.rows.layouts.contract import Event, Fixed, Root, Rows, TableSpec
from loader.types.names import Namer

TABLE = "events"
TEXTS = ("messageId", "type", "event", "userId", "anonymousId", "groupId", "previousId")
TIMES = ("receivedAt", "sentAt", "originalTimestamp", "timestamp")


def fixed_keys(namer: Namer) -> dict[str, Fixed]:
    """Returns the keys of the canonical event with their names in the connection."""
    kinds = dict.fromkeys(TEXTS, Kind.TEXT) | dict.fromkeys(TIMES, Kind.TIMESTAMP)
    return {key: Fixed(namer.column([namer.part(key)]), kind) for key, kind in kinds.items()}


class Passthrough:
    """Places every event as it is."""

    def __init__(self, namer: Namer) -> None:
        self.built_in = frozenset([namer.key(TABLE)])
        fixed = fixed_keys(namer)
        self.shared_root = Root()
        self._root = Root(fixed=fixed)
        self._spec = TableSpec(
            reserved=frozenset(column.name for column in fixed.values()),
            key=fixed["messageId"].name,
            received=fixed["receivedAt"].name,
        )

    def spec(self, table: str) -> TableSpec:  # noqa: ARG002 - all tables are alike
        """Returns the properties of a table."""
        return self._spec

    def place(self, event: Event, table: str | None) -> tuple[Event | None, Rows]:
        """Returns the shared object and the rows of an event."""
        return None, ((table or TABLE, self._root, event),)
