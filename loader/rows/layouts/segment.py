"""Layout `segment`: the tables and columns of Segment's warehouses (segment.com/docs/connections/storage/warehouses/schema).

| type | tables |
| --- | --- |
| track | `tracks` without properties, and a table named for the event with its properties at the top |
| identify | `identifies`, and `users`: one row per `userId` with the latest traits |
| page, screen | `pages`, `screens`: properties at the top, `name` and `category` |
| group | `groups`: `group_id` and the traits; and `accounts`: one row per `groupId` with the latest traits |
| alias | `aliases`: `previous_id` |
| any other | a table named for the type, properties and traits at the top |

Every table has `id` (the messageId), `anonymous_id`, `user_id`, the four times, `uuid_ts` (time of loading) and `context_*`;
`users` and `accounts` have `id` (the userId, the groupId), `received_at`, `uuid_ts` and traits only. `integrations` is not
stored, nor `type`, which the table tells. What differs from Segment's own warehouses on purpose: docs/loading.md. An event whose
table would be one of the above gets `_` appended. With a table template, or a table a function chose, every event is one row
of that table only, with `type`, properties and traits.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from loader.contract.warehouse import Kind
from loader.rows.layouts.contract import Event, Fixed, Root, Rows, TableSpec
from loader.rows.layouts.pages import drop_repeats
from loader.types.names import Namer

LOAD_TIME = "uuid_ts"

_SLUG, _EVENT_TEXT, _ENTITY, _RECEIVED = 0, 1, 2, 3
"""Keys of columns that the layout makes."""

_COMMON = {
    "messageId": Fixed("id", Kind.TEXT),
    "anonymousId": Fixed("anonymous_id", Kind.TEXT),
    "userId": Fixed("user_id", Kind.TEXT),
    "receivedAt": Fixed("received_at", Kind.TIMESTAMP),
    "sentAt": Fixed("sent_at", Kind.TIMESTAMP),
    "originalTimestamp": Fixed("original_timestamp", Kind.TIMESTAMP),
    "timestamp": Fixed("timestamp", Kind.TIMESTAMP),
}
_PARTICULAR: dict[Any, Fixed] = {
    _SLUG: Fixed("event", Kind.TEXT),
    _EVENT_TEXT: Fixed("event_text", Kind.TEXT),
    "type": Fixed("type", Kind.TEXT),
    "groupId": Fixed("group_id", Kind.TEXT),
    "previousId": Fixed("previous_id", Kind.TEXT),
}
_ENTITIES: dict[Any, Fixed] = {_ENTITY: Fixed("id", Kind.TEXT), _RECEIVED: Fixed("received_at", Kind.TIMESTAMP)}
_RESERVED = frozenset(column.name for column in _COMMON.values()) | {LOAD_TIME}
_NOTHING, _PROPERTIES, _TRAITS = Root(), Root(("properties",)), Root(("traits",))
_BOTH = Root(lifted={"properties": (), "traits": ()})
_PROFILE = Root(fixed=_ENTITIES, lifted={"traits": ()})
_MOST_NAMES = 10_000


def _spec(*reserved: str) -> TableSpec:
    return TableSpec(reserved=_RESERVED.union(reserved), key="id", received="received_at", shared=True, load_time=LOAD_TIME)


_OF_CLIENT = _spec("event", "event_text")
_CHOSEN = _spec("event", "event_text", "type")
_LATEST = TableSpec(
    reserved=frozenset({"id", "received_at", LOAD_TIME}), key="id", received="received_at", entity=True, load_time=LOAD_TIME
)
_BUILT_IN = {
    "tracks": _OF_CLIENT,
    "identifies": _spec(),
    "pages": _spec(),
    "screens": _spec(),
    "groups": _spec("group_id"),
    "aliases": _spec("previous_id"),
    "users": _LATEST,
    "accounts": _LATEST,
}


class Segment:
    """Places events in the tables of Segment."""

    def __init__(self, namer: Namer) -> None:
        self.shared_root = Root(fixed={**_COMMON, **_PARTICULAR})
        self._namer = namer
        self.built_in = frozenset(namer.key(table) for table in _BUILT_IN)
        self._entities = frozenset(namer.key(table) for table, spec in _BUILT_IN.items() if spec.entity)
        self._events: dict[str, tuple[str, str]] = {}
        self._chosen: set[str] = set()

    def spec(self, table: str) -> TableSpec:
        """Returns the properties of a table."""
        if table in self._chosen:
            return _CHOSEN
        return _BUILT_IN.get(table, _OF_CLIENT)

    def place(self, event: Event, table: str | None) -> tuple[Event | None, Rows]:
        """Returns the shared object and the rows of an event."""
        event.pop("integrations", None)
        if table is not None:
            return self._place_in(event, table)
        kind = event.pop("type")
        if kind == "track":
            names = self._name_event(event)
            if names is None:
                return event, (("tracks", _NOTHING, None),)
            return event, (("tracks", _NOTHING, None), (names[1], _PROPERTIES, _own(event, "properties")))
        if kind == "page" or kind == "screen":
            return event, ((kind + "s", _PROPERTIES, _page(event)),)
        if kind == "identify":
            return event, _with_latest(event, "identifies", "users", "userId")
        if kind == "group":
            return event, _with_latest(event, "groups", "accounts", "groupId")
        if kind == "alias":
            return event, (("aliases", _NOTHING, None),)
        return self._lift(event, self._names(kind)[1])

    def _place_in(self, event: Event, table: str) -> tuple[Event, Rows]:
        if table not in self._chosen:
            if len(self._chosen) >= _MOST_NAMES:
                self._chosen.clear()
            self._chosen.add(table)
        if self._namer.key(table) in self._entities:
            table = self._namer.cut(table, "_")  # its key is the user or group, not the message
        return self._lift(event, table)

    def _lift(self, event: Event, table: str) -> tuple[Event, Rows]:
        """Returns an event as one row, properties and traits at the top."""
        self._name_event(event)
        own = {key: event.pop(key) for key in ("properties", "traits") if key in event}
        return event, ((table, _BOTH, own),)

    def _name_event(self, event: Event) -> tuple[str, str] | None:
        """Puts `event` and `event_text` in place of the event's name; returns the slug and the table, None without a name."""
        text = event.get("event")
        if not text or type(text) is not str:
            return None
        del event["event"]
        names = self._names(text)
        event[_SLUG] = names[0]
        event[_EVENT_TEXT] = text
        return names

    def _names(self, text: str) -> tuple[str, str]:
        """Returns the slug of a name and its table, which is never a built-in one."""
        names = self._events.get(text)
        if names is None:
            if len(self._events) >= _MOST_NAMES:
                self._events.clear()
            slug = table = self._namer.table(text)
            if self._namer.key(table) in self.built_in:
                table = self._namer.cut(table, "_")
            names = self._events[text] = (slug, table)
        return names


def _with_latest(event: Event, table: str, entities: str, key: str) -> Rows:
    """Returns the row of an event with traits, and the row of its user or group."""
    entity, traits = event.get(key), _traits(event) if key == "userId" else _own(event, "traits")
    if not entity or type(entity) not in (str, int, float, Decimal):
        return ((table, _TRAITS, traits),)
    profile: Event = {_ENTITY: entity, _RECEIVED: event["receivedAt"]}
    if traits:
        profile["traits"] = traits
    return (table, _TRAITS, traits), (entities, _PROFILE, profile)


def _traits(event: Event) -> Event | None:
    """Takes the traits of an identify; without any, those of its context, where RudderStack's SDKs for browsers and devices write them."""
    traits = _own(event, "traits")
    if traits:
        return traits
    context = event.get("context")
    of_context = context.get("traits") if type(context) is dict else None
    return dict(of_context) if of_context and type(of_context) is dict else traits


def _own(event: Event, key: str) -> Event | None:
    """Takes the object at `key` out of the event; any other value stays as a separate column."""
    value = event.get(key)
    if type(value) is dict:
        del event[key]
        return value
    return None


def _page(event: Event) -> Event | None:
    properties = _own(event, "properties")
    if properties:
        drop_repeats(event, properties)
    return properties
