"""Layout `single_table`: every event is a row of `events`, with the columns people query at the top.

`type` is kept; `properties` are lifted to the top; traits, those of the event and those of its context, are
`context_traits_*`, so that one column holds them for every type of event; the context is `context_*`.
"""

from __future__ import annotations

from loader.rows.layouts.contract import Event, Root, Rows, TableSpec
from loader.rows.layouts.pages import drop_repeats
from loader.rows.layouts.passthrough import TABLE, fixed_keys
from loader.types.names import Namer


class SingleTable:
    """Places every event in the table `events`."""

    def __init__(self, namer: Namer) -> None:
        self.built_in = frozenset([namer.key(TABLE)])
        fixed = fixed_keys(namer)
        self.shared_root = Root()
        self._root = Root(fixed=fixed, lifted={"properties": (), "traits": ("context", "traits")})
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
        if "name" in event or "category" in event:
            properties = event.get("properties")
            if type(properties) is dict:
                drop_repeats(event, properties)
        return None, ((table or TABLE, self._root, event),)
