"""What a destination with tables may offer besides the contract: a search for message ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class FindsIds(Protocol):
    """A destination that can find message ids in its tables, for `penstock status --check`. Optional."""

    async def find_ids(self, connection: str, ids: Sequence[str], key: str) -> Mapping[str, Mapping[str, int]]:
        """Returns by table how often each of these ids is in a table that the connection loads; leaves out ids that are in no
        table.

        Args:
            connection: the connection that loads the tables.
            ids: message ids.
            key: the column of the connection's layout that holds the ids; tables without it are older.

        Raises:
            NotConnected, Transient, SetupError
        """
        ...
