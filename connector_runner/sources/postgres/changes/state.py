"""The state of change data capture, one for each table: how far its changes were given on, and how far its copy is. Pure."""

from __future__ import annotations

import msgspec

from shared.errors import UNREADABLE, SetupError


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What positions are of. `system`: the identifier of the server's data; `timeline`: grows when a standby is promoted or a backup put
    back."""

    system: str
    timeline: int


class TableState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A table. All that was committed before `lsn` was given on.

    `published`: the number of its entry in the publication. `since`: the position of the log that its copy stands for; `values`: the key of
    the last row that was copied.
    """

    server: Server
    slot: str
    oid: int
    published: int
    lsn: int
    since: int
    done: bool = False
    values: tuple[str, ...] = ()

    def at(self, lsn: int) -> TableState:
        """Returns the state at a later position."""
        return self if lsn <= self.lsn else msgspec.structs.replace(self, lsn=lsn)

    def encoded(self) -> bytes:
        """Returns it as it is stored."""
        return msgspec.json.encode(self)


def stored_table(stored: bytes, what: str) -> TableState:
    """Returns a stored state.

    Args:
        what: it is of, for the message.

    Raises:
        SetupError: it is none of ours; to begin again would leave changes out without a word.
    """
    try:
        return msgspec.json.decode(stored, type=TableState)
    except UNREADABLE as exc:
        raise SetupError(
            f"{what}: the stored state is not of change data capture; forget it (`penstock sync reset`), and the table is copied again"
        ) from exc


def shown(lsn: int) -> str:
    """Returns a position of the log as the server writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
