"""Where the table of a lookup comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.project.lookups import Lookup


class Source(NamedTuple):
    """Where the table of a lookup comes from, secrets as references. `place`: options of its database; empty for a file."""

    name: str
    lookup: Lookup
    place: Mapping[str, Any]

    @property
    def what(self) -> str:
        """The lookup, for messages."""
        return f'lookup "{self.name}"'
