"""The `identity` of a connection as a project file says it: how far back events of a visitor get the user that is learned later.

What it does to events: `functions_runtime/rules/stitching.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, field

from shared.errors import Problem
from shared.project.functions import ANY_DEPTH, ANY_KEY, PrivacyRule
from shared.reading.units import ByteSize, Duration

if TYPE_CHECKING:
    from shared.project.model import Connection

DAY = 86_400
SHORTEST_SECONDS, LONGEST_SECONDS = 1, 90 * DAY
MOST_BYTES = 1024 * 1024
"""Of a visitor's events: with the events of one frame they stay far below what a message of the broker holds."""

_IDS = ("userId", "anonymousId")
_USER_COLUMN = re.compile(r"_*user_?id", re.IGNORECASE)
_USER_IN_TEMPLATE = re.compile(r"\buserId\b")
_REMEDY = "or take `identity` out"


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How events of an anonymous visitor get the user id that is learned later."""

    look_back: Annotated[
        Duration,
        Meta(
            description="how long before its user is known a visitor's events are kept, and how long after that they get the id"
        ),
    ] = field(default_factory=lambda: Duration(7 * DAY))
    max_events: Annotated[
        int, Meta(ge=1, le=1000, description="events that are kept of one visitor; the oldest go first, and are counted")
    ] = 100
    max_bytes: Annotated[
        ByteSize, Meta(description="bytes of the events that are kept of one visitor, at most 1 MiB; the oldest go first")
    ] = field(default_factory=lambda: ByteSize(256 * 1024))
    forward: Annotated[
        bool,
        Meta(
            description="true: an anonymous event that comes after its visitor's user is known gets the id at once. false: it waits for the next event with a user id"
        ),
    ] = True


def check_identity(path: str, connection: Connection) -> Iterator[Problem]:
    """Yields everything with which a connection cannot stitch: what goes again under its message id must replace its row."""
    identity = connection.identity
    if identity is None:
        return
    here = f"{path}.identity"
    if not SHORTEST_SECONDS <= identity.look_back <= LONGEST_SECONDS:
        yield Problem(f"{here}.look_back", f"expected 1s to 90d, got {identity.look_back:g}s")
    if not 1024 <= identity.max_bytes <= MOST_BYTES:
        yield Problem(f"{here}.max_bytes", f"expected 1KiB to 1MiB, got {int(identity.max_bytes)} bytes")
    if not connection.deduplicate:
        yield Problem(
            f"{path}.deduplicate",
            f"`identity` sends events again under their messageId, and appended rows would be there twice; set deduplicate: true, {_REMEDY}",
        )
    if any(_USER_COLUMN.fullmatch(column) for column in connection.primary_key or ()):
        yield Problem(
            f"{path}.primary_key",
            f"`identity` gives rows another user id, so a key that holds it would not find the row to replace; choose other columns, {_REMEDY}",
        )
    if connection.table is not None and _USER_IN_TEMPLATE.search(connection.table):
        yield Problem(
            f"{path}.table",
            f"`identity` gives events a userId later, and this template may then name another table, so the first row would stay; "
            f"leave userId out of it, {_REMEDY}",
        )
    for index, rule in enumerate(connection.privacy):
        if rule.do != "hash" and (key := _id_of(rule)) is not None:
            yield Problem(
                f"{path}.privacy[{index}]",
                f"`identity` tells visitors and users by {key}, of which `do: {rule.do}` leaves nothing to tell them by; "
                f"use `do: hash`, or another field, {_REMEDY}",
            )


def _id_of(rule: PrivacyRule) -> str | None:
    """Returns the id at the top of an event that a rule changes."""
    path = rule.path
    while len(path) > 1 and path[0] == ANY_DEPTH:
        path = path[1:]
    if len(path) != 1:
        return None
    return next((key for key in _IDS if path[0] in (key, ANY_KEY)), None)
