"""Layout `jitsu_legacy`: the flat table `events` of Jitsu's first generation, for dashboards that were written for it.

`eventn_ctx_event_id` identifies an event, `event_type` names it, `_timestamp` is when the server got it, `utc_time` when it
happened. `user_*`, `utm_*`, `click_id_*`, `ids_*`, `location_*` and `parsed_ua_*` are flattened objects; properties are at the top.
`shared/events/classic.py` has the names. Events of every protocol become such rows.
"""

from __future__ import annotations

from loader.contract.warehouse import Kind
from loader.rows.layouts.contract import Event, Fixed, Root, Rows, TableSpec
from loader.types.names import Namer
from shared.events.classic import as_classic

TABLE = "events"
KEY, RECEIVED = "eventn_ctx_event_id", "_timestamp"
KINDS = {
    KEY: Kind.TEXT, "event_type": Kind.TEXT, RECEIVED: Kind.TIMESTAMP, "utc_time": Kind.TIMESTAMP, "src": Kind.TEXT,
    "source_ip": Kind.TEXT, "anon_ip": Kind.TEXT, "sentAt": Kind.TIMESTAMP, "originalTimestamp": Kind.TIMESTAMP,
}  # fmt: skip


class JitsuLegacy:
    """Places every event in the table `events`."""

    def __init__(self, namer: Namer) -> None:
        self.built_in = frozenset([namer.key(TABLE)])
        fixed = {key: Fixed(namer.column([namer.part(key)]), kind) for key, kind in KINDS.items()}
        self.shared_root = Root()
        self._root = Root(fixed=fixed, lifted={"properties": ()})
        self._spec = TableSpec(
            reserved=frozenset(column.name for column in fixed.values()), key=fixed[KEY].name, received=fixed[RECEIVED].name
        )

    def spec(self, table: str) -> TableSpec:  # noqa: ARG002 - all tables are alike
        """Returns the properties of a table."""
        return self._spec

    def place(self, event: Event, table: str | None) -> tuple[Event | None, Rows]:
        """Returns the shared object and the rows of an event."""
        return None, ((table or TABLE, self._root, as_classic(event)),)
