"""Removes what SDKs send twice for a page or screen: `name` and `category`, beside the properties and among them. Pure."""

from __future__ import annotations

from loader.rows.layouts.contract import Event


def drop_repeats(event: Event, properties: Event) -> None:
    """Takes `name` and `category` out of the properties if the event has the same text: both would be one column."""
    for key in ("name", "category"):
        if type(properties.get(key)) is str and properties[key] == event.get(key):
            del properties[key]
