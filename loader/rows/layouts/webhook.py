"""Layout `webhook`: a table for each webhook, with the columns of Fivetran's webhook connector (fivetran.com/docs/connectors/events/webhooks).

| column | holds |
| --- | --- |
| `_id` | the messageId |
| `_index` | the place of the payload in an array that was delivered |
| `_created` | when it was received |
| `_ip` | the sender's address, as the site keeps it |
| `_event`, `_user_id` | the name of the event, and its user |
| `_rest` | all that the event holds besides, as JSON |
| `_fivetran_synced` | when it was loaded |
| `data` | of a packed webhook: the payload, as JSON |
| others | of an unpacked one: the members of the payload; objects and arrays are JSON |

Queries of such tables go on. An event that no webhook made goes to a table named for its type, its properties as the payload.
"""

from __future__ import annotations

from typing import Any

from loader.contract.warehouse import Kind
from loader.rows.layouts.contract import Event, Fixed, Root, Rows, TableSpec, Whole
from loader.types.names import Namer

_ID, _INDEX, _CREATED, _IP, _EVENT, _USER, _REST = 0, 1, 2, 3, 4, 5, 6
"""Keys of columns that the layout makes."""

LOAD_TIME = "_fivetran_synced"

_OWN: dict[Any, Fixed] = {
    _ID: Fixed("_id", Kind.TEXT),
    _INDEX: Fixed("_index", Kind.BIGINT),
    _CREATED: Fixed("_created", Kind.TIMESTAMP),
    _IP: Fixed("_ip", Kind.TEXT),
    _EVENT: Fixed("_event", Kind.TEXT),
    _USER: Fixed("_user_id", Kind.TEXT),
    _REST: Fixed("_rest", Kind.JSON),
}
_PACKED = Root(("properties",), fixed={**_OWN, "data": Fixed("data", Kind.JSON)})
_UNPACKED = Root(("properties",), fixed=_OWN)
_SPEC = TableSpec(
    reserved=frozenset({*(column.name for column in _OWN.values()), LOAD_TIME}),
    key="_id",
    received="_created",
    load_time=LOAD_TIME,
)


class Webhook:
    """Places payloads in the table of their webhook."""

    def __init__(self, namer: Namer) -> None:
        self.built_in: frozenset[str] = frozenset()
        self.shared_root = Root()
        self._namer = namer

    def spec(self, table: str) -> TableSpec:  # noqa: ARG002 - all tables are alike
        """Returns the properties of a table."""
        return _SPEC

    def place(self, event: Event, table: str | None) -> tuple[Event | None, Rows]:
        """Returns the row of an event."""
        context = event.pop("context")
        about = context.pop("webhook", None)
        if type(about) is not dict:
            context = context if about is None else {**context, "webhook": about}
            about = {}
        name, index = about.get("name"), about.get("index")
        received_at = event.pop("receivedAt")
        row: Event = {
            _ID: event.pop("messageId"),
            _INDEX: index if type(index) is int else 0,
            _CREATED: received_at,
            _IP: context.pop("ip", None),
            _EVENT: event.pop("event", None),
            _USER: event.pop("userId", None),
        }
        kind = event.pop("type")
        if event.get("timestamp") == received_at:
            del event["timestamp"]
        payload = event.pop("properties", None)
        root = _UNPACKED
        if type(payload) is not dict:
            row["data"] = payload
        elif about.get("packed") is True:
            root = _PACKED
            row["data"] = None if (data := payload.get("data")) is None else Whole(data)
        else:
            for key, value in payload.items():
                row[key] = Whole(value) if type(value) is dict and value else value
        if context:
            event["context"] = context
        if event:
            row[_REST] = Whole(event)
        return None, ((table or self._namer.table(name if type(name) is str and name else kind), root, row),)
