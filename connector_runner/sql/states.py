"""How far a table is read, as the text of a checkpoint. Pure.

Positions are texts that the database wrote itself, so they are exact whatever the type is.
"""

from __future__ import annotations

import msgspec

from shared.errors import UNREADABLE, SetupError


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How far an incremental read of a table is.

    `cursor`: the column. `done`: all rows up to this value, it included, were there when they were read; None: none were. `high`: the value that the read
    under way goes up to; None: none is under way. `at`: where that read is, as values of the cursor and of the columns of `key`.
    """

    version: int = 1
    cursor: str
    done: str | None = None
    high: str | None = None
    key: tuple[str, ...] = ()
    at: tuple[str, ...] | None = None


def write_state(state: State) -> bytes:
    """Returns a state as JSON."""
    return msgspec.json.encode(state)


def read_state(text: bytes | None, cursor: str) -> State:
    """Returns the state of a read by this cursor, a new one if there is none or it is of another cursor.

    Raises:
        SetupError: it is none of ours, or of a later version.
    """
    if text is None:
        return State(cursor=cursor)
    try:
        found = msgspec.json.decode(text, type=State)
    except UNREADABLE as exc:
        raise SetupError(f"the state of the stream is not one that this connector wrote: {exc}; reset the stream") from exc
    if found.version != 1:
        raise SetupError("a later version of Penstock wrote the state of the stream; run that version, or reset the stream")
    return found if found.cursor == cursor else State(cursor=cursor)
