"""The device destinations under test: a row for each, with a stand-in of its vendor's script.

The suite sends track events only. A stand-in keeps what it is told where the row's `names` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Subject:
    """One device."""

    options: Mapping[str, Any]
    """As the project file has them, without `type`."""
    names: str
    """JavaScript: the names of the track events that the vendor has been told, in order; an empty array before."""
    vendor: Mapping[str, str] = field(default_factory=dict)
    """The vendor's scripts, by their whole addresses: what Chromium gets for them."""
    wrong: tuple[Mapping[str, Any], str] = ({}, "")
    """Options that `check` refuses, and a part of what it says."""


SUBJECTS: dict[str, Subject] = {
    "tag": Subject(
        options={"script": "(window.told ??= []).push(event.event)"},
        names="window.told ?? []",
        wrong=({"html": "<b>{{ user }}</b>"}, "expected a path into the event"),
    ),
}
