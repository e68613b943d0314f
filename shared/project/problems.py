"""Problems as data: what `from: dead`, `from: warnings` and `from: violations` mean for a connection.

Problems travel as events of reserved sites, so that routing, functions and destinations need not know that they are none of a
client's. No name of a project begins with an underscore, so no client can send to such a site.

One rule keeps problems from feeding themselves: what befalls an event of a reserved site is in no source. Its dead letters
and warnings are where all are (`penstock dead list`, `penstock warnings`), but become no rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from shared.errors import Problem

if TYPE_CHECKING:
    from shared.project.model import Connection

From = Literal["dead", "warnings", "violations"]

DEAD_SITE = "_dead"
WARNINGS_SITE = "_warnings"
VIOLATIONS_SITE = "_violations"
SITES: Mapping[str, str] = {"dead": DEAD_SITE, "warnings": WARNINGS_SITE, "violations": VIOLATIONS_SITE}
"""The reserved site of each source."""
TABLES: Mapping[str, str] = {"dead": "dead_letters", "warnings": "ingestion_warnings", "violations": "plan_violations"}
"""The table of each source, if the connection names no other."""
KEYS: Mapping[str, list[str]] = {"dead": ["store", "letter"]}
"""Columns that identify a row: the row of a dead letter is written again when the letter is replayed or purged."""
MISSING = "expected the name of a site; or `from: dead`, `from: warnings` or `from: violations` instead"
LIFTING = ("segment", "single_table")
"""Layouts that name the properties of an event as they are, so that the columns of `KEYS` exist."""


def is_reserved(site: str) -> bool:
    """Whether a site is that of a source of problems."""
    return site.startswith("_")


def settle(connection: Connection) -> Connection:
    """Returns a connection with the site, table and key that its `from` stands for; one with a site stays as it is."""
    source = connection.from_
    if source is None or connection.site:
        return connection
    key = connection.primary_key
    if key is None and connection.layout in LIFTING:
        key = KEYS.get(source)
    return msgspec.structs.replace(connection, site=SITES[source], table=connection.table or TABLES[source], primary_key=key)


def are_wanted(connections: Mapping[str, Connection], source: From) -> bool:
    """Whether a connection takes problems of a source."""
    return any(each.site == SITES[source] for each in connections.values())


def check_source(path: str, connection: Connection) -> Iterator[Problem]:
    """Yields the problems of `site` and `from` of a connection that is settled."""
    if connection.from_ is None:
        if not connection.site:
            yield Problem(f"{path}.site", MISSING)
    elif connection.site != SITES[connection.from_]:
        yield Problem(f"{path}.from", "a connection has either a site or `from`; take one of them out")
