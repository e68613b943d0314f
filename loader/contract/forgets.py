"""What a destination with tables may offer besides the contract: to find and delete the rows of a person."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Protocol, runtime_checkable

ID_COLUMNS = ("user_id", "anonymous_id", "previous_id", "group_id")
"""The columns of layouts that hold ids of people and groups."""

_PROFILES = ("users", "accounts")
"""Tables of the layout `segment` whose `id` is the id of a person or group. Tables of events have a message id there, and `user_id`."""


@runtime_checkable
class ForgetsPeople(Protocol):
    """A destination that can delete the rows of a person, for `penstock forget`. Optional."""

    async def forget_person(
        self, names: Sequence[str], *, columns: Sequence[str] = (), epoch: int, delete: bool
    ) -> Mapping[str, int]:
        """Returns by table how many rows have one of these ids, and deletes the rows.

        It looks into all tables that connections load or once loaded, also connections that have left the project; not into tables of syncs.
        The rows are gone for readers when it returns. Rows whose ids differ in case, accents or blanks at the end stay.

        Args:
            names: ids, compared with the columns that `person_columns` names.
            columns: further columns that hold such ids or names, as the warehouse has them.
            epoch: grows with each worker that forgets; a store without transactions is fenced with it.
            delete: False: only count.

        Raises:
            NotConnected, Transient, SetupError, Permanent
        """
        ...


def person_columns(table: str, columns: Container[str], more: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the columns of a table that hold ids of people.

    Args:
        table: its name.
        columns: its columns, as the warehouse compares names.
        more: columns that hold such ids too, wherever they are.
    """
    own = tuple(column for column in ID_COLUMNS if column in columns)
    if not own and table.lower() in _PROFILES and "id" in columns:
        own = ("id",)
    return own + tuple(column for column in dict.fromkeys(more) if column in columns and column not in own)
