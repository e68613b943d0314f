"""Names of Iglu schemas: `iglu:vendor/name/format/MODEL-REVISION-ADDITION`, as self-describing JSON carries them. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

LONGEST = 1024
"""The longest name that is read, in characters."""

_NAME = re.compile(
    r"iglu:([a-zA-Z0-9_.-]{1,256})/([a-zA-Z0-9_-]{1,256})/([a-zA-Z0-9_-]{1,128})/([1-9]\d{0,8}-\d{1,9}-\d{1,9})", re.ASCII
)


class SchemaName(NamedTuple):
    """The parts of a name; `version` is `MODEL-REVISION-ADDITION`."""

    vendor: str
    name: str
    format: str
    version: str

    @property
    def model(self) -> str:
        """The first number of the version: another one means that old data does not fit."""
        return self.version.partition("-")[0]


@lru_cache(4096)
def read_name(uri: str) -> SchemaName | None:
    """Returns the parts of a schema's name, None if it is no such name."""
    found = _NAME.fullmatch(uri) if len(uri) <= LONGEST else None
    return None if found is None else SchemaName(*found.groups())
