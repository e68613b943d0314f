"""What a destination with tables may offer besides the contract: to find and delete the rows of a person."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

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


class ObjectRows(NamedTuple):
    """How many rows of a person an object holds now; `note`: why it was not searched."""

    key: str
    rows: int
    note: str = ""


class Changed(NamedTuple):
    """Which objects a second look reads: all that were written after `since` (epoch seconds), and those of `keys`."""

    since: float
    keys: Container[str]


@runtime_checkable
class ForgetsPeopleInObjects(Protocol):
    """A destination of files that can write its objects again without the rows of a person. Optional."""

    def forget_in_objects(
        self, names: Sequence[str], *, columns: Sequence[str], epoch: int, delete: bool, changed: Changed | None = None
    ) -> AsyncIterator[ObjectRows]:
        """Yields each object with rows of the person and, with `delete`, yields it again with the rows that are left, once they are gone.

        A rewritten object takes the place of the former one at once. It writes only where no load is under way that could write the same object:
        the caller waits for the queues first. So a caller may die at any moment: it begins again, and finds the objects that are left.

        Args:
            names: ids, compared with the columns that `person_columns` names.
            columns: further columns that hold such ids or names.
            epoch: grows with each worker that forgets, and fences the earlier ones.
            delete: False: only count.
            changed: read only these; None: all.

        Raises:
            NotConnected, Transient, SetupError
        """
        ...

    async def remains(self) -> str:
        """Returns what the store keeps although the objects are rewritten, and how a person removes it; empty: nothing. Raises as above."""
        ...


def person_columns(table: str, columns: Container[str], more: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the columns of a table that hold ids of people.

    Args:
        table: its name.
        columns: its columns, as the warehouse compares names.
        more: columns that hold such ids too, in any table.
    """
    own = tuple(column for column in ID_COLUMNS if column in columns)
    if table.lower() in _PROFILES and "id" in columns:
        own += ("id",)  # beside a trait that has the name of such a column
    return own + tuple(column for column in dict.fromkeys(more) if column in columns and column not in own)
