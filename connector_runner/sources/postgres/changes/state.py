"""The state of change data capture: how far the log was read, and which tables are copied. Pure."""

from __future__ import annotations

import msgspec

from shared.errors import SetupError


class Copied(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A table. `since`: the position of the log that its copy stands for; `values`: the key of the last row that was copied."""

    schema: str
    name: str
    oid: int
    since: int
    done: bool = False
    values: tuple[str, ...] = ()
    truncated: bool = False
    """The table lost all rows, and the destination still has them."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """All that was committed before `lsn` was given on. `system`: the identifier of the server's data."""

    system: str
    slot: str
    lsn: int
    tables: tuple[Copied, ...] = ()

    def table(self, oid: int) -> Copied | None:
        """Returns the state of a table."""
        return next((each for each in self.tables if each.oid == oid), None)

    def with_table(self, copied: Copied) -> Position:
        """Returns the state with another one of a table."""
        others = tuple(each for each in self.tables if each.oid != copied.oid)
        return msgspec.structs.replace(self, tables=(*others, copied))

    def at(self, lsn: int) -> Position:
        """Returns the state at a later position."""
        return msgspec.structs.replace(self, lsn=max(lsn, self.lsn))

    def encoded(self) -> bytes:
        """Returns it as it is stored."""
        return msgspec.json.encode(self)


def stored_position(stored: bytes | None, what: str) -> Position | None:
    """Returns a stored state.

    Raises:
        SetupError: it is none of ours; to begin again would leave changes out without a word.
    """
    try:
        return None if stored is None else msgspec.json.decode(stored, type=Position)
    except msgspec.MsgspecError as exc:
        raise SetupError(
            f"{what}: the stored state is not of change data capture; remove it, and all tables are copied again"
        ) from exc


def shown(lsn: int) -> str:
    """Returns a position of the log as the server writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
