"""Layout `snowplow`: the table `events` with the 131 columns of Snowplow's `atomic.events`, and a column for each schema.

| column | holds |
| --- | --- |
| the 131 | parameters, and what Snowplow's enrichment adds to them; every table has all of them from its beginning |
| `unstruct_event_{vendor}_{name}_{model}` | the data of a self-describing event, as JSON |
| `contexts_{vendor}_{name}_{model}` | the entities of a schema, as a JSON array; each with its `_schema_version` |
| `load_tstamp` | the time of loading |

That is the wide table of Snowplow's loaders for warehouses with semi-structured columns, also in Postgres. It is built from the
canonical event, so what a function or a privacy rule changes is changed here. `user_id`, `event_id`, `domain_userid` and the data
of an event come from `userId`, `messageId`, `anonymousId` and `properties`, all else from `context`. An event of another protocol
fills the columns that it has values for: docs/loading.md.
"""

from __future__ import annotations

from loader.contract.warehouse import Kind
from loader.rows.layouts.contract import Event, Fixed, Root, Rows, TableSpec, Whole
from loader.types.names import Namer
from shared.snowplow.atomic import ENTITIES_PREFIX, EVENT_PREFIX, row_of
from shared.snowplow.columns import COLUMNS

TABLE = "events"
LOAD_TIME = "load_tstamp"

_FIXED = {name: Fixed(name, Kind(kind)) for name, kind in COLUMNS.items()}


class Snowplow:
    """Places every event in the table `events`."""

    def __init__(self, namer: Namer) -> None:
        self.built_in = frozenset([namer.key(TABLE)])
        self.shared_root = Root()
        self._root = Root(fixed=_FIXED)
        self._spec = TableSpec(
            reserved=frozenset(COLUMNS),
            key="event_id",
            received="collector_tstamp",
            load_time=LOAD_TIME,
            columns=tuple(_FIXED.values()),
            documents=(EVENT_PREFIX, ENTITIES_PREFIX),
        )

    def spec(self, table: str) -> TableSpec:  # noqa: ARG002 - all tables are alike
        """Returns the properties of a table."""
        return self._spec

    def place(self, event: Event, table: str | None) -> tuple[Event | None, Rows]:
        """Returns the row of an event."""
        row = row_of(event)
        for column, value in row.items():
            if type(value) is dict and column.startswith(EVENT_PREFIX[:-1]):
                row[column] = Whole(value)
        return None, ((table or TABLE, self._root, row),)
