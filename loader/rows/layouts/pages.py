"""What SDKs send twice of a page or screen: `name` and `category` stand beside the properties and among them. Pure."""

from __future__ import annotations

from loader.rows.layouts.contract import Event


def drop_repeats(event: Event, properties: Event) -> None:
    """Takes `name` and `category` out of the properties where the event has the same text: as one column they are one value."""
    for key in ("name", "category"):
        if type(properties.get(key)) is str and properties[key] == event.get(key):
            del properties[key]
