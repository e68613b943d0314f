"""Translates what ClickHouse and the way to it raise into our tree; the only place of the source that knows their errors.

https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
"""

from __future__ import annotations

from shared.driving.clickhouse import ServerError, code_of, of_connection, words_of
from shared.errors import NotConnected, PenstockError, Permanent, SetupError, Transient, UnknownDriverError, unknown

_SETUP = {
    **dict.fromkeys((192, 193, 194, 516, 291), "check `user` and `password`"),
    81: "check `database`",
    497: "grant SELECT on it to the user, or exclude it",
    **dict.fromkeys(
        (164, 452, 115),
        "the user's profile forbids settings that a read needs; set `readonly` of it to 2 or 0, or use another user",
    ),
    **dict.fromkeys((43, 44, 47, 48, 53, 386), "the server cannot read it so; mend the view, or exclude it"),
    **dict.fromkeys((158, 307, 396), "the server's limits forbid so large a read; raise them for the user"),
}
_PASSING = frozenset({10, 16, 60, 3, 32, 33, 159, 202, 203, 209, 210, 225, 236, 241, 242, 279, 319, 394, 425, 439, 473, 999})
"""Limits of the moment; and tables and columns that were there a moment ago."""


def translate(error: BaseException, what: str) -> PenstockError:
    """Returns our error for one of the server's or of the connection's; `what`: failed, for the message."""
    if isinstance(error, PenstockError):
        return error
    name = type(error).__name__
    if isinstance(error, ServerError):
        code, said = code_of(error), f"{what}: {words_of(error)}"
        if code is None:
            return NotConnected(f"{said} (not a ClickHouse server's answer; check `url`)")
        if code in _SETUP:
            return SetupError(f"{said}; {_SETUP[code]}")
        return Transient(said) if code in _PASSING else UnknownDriverError(f"{said} (code {code})")
    if (of_way := of_connection(error, what)) is not None:
        return of_way
    if name.startswith("Arrow"):
        return Permanent(f"{what}: {error}")
    return unknown(error, f"{what}: {name}: {error}")
