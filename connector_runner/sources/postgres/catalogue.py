"""The tables of a database, asked of its catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from connector_runner.contract import Stream, StreamName
from connector_runner.sources.postgres.links import quoted
from connector_runner.sources.postgres.types import Column

if TYPE_CHECKING:
    import asyncpg

_BELOW = """
WITH RECURSIVE below AS (
    SELECT t.oid AS type, t.oid AS inner_type, t.typtypmod AS modifier FROM pg_type t WHERE t.typtype <> 'd'
    UNION ALL
    SELECT d.oid, b.inner_type, CASE WHEN b.inner_type = d.typbasetype THEN d.typtypmod ELSE b.modifier END
    FROM below b JOIN pg_type d ON d.typbasetype = b.type AND d.typtype = 'd'
)
"""
"""Types below domains."""

TYPES = f"""{_BELOW}
SELECT o.oid::bigint AS oid, t.typname::text AS type, coalesce(e.typname::text, '') AS element, b.type = b.inner_type AS plain,
       b.modifier AS modifier, format_type(o.oid, NULL) AS declared
FROM unnest($1::oid[]) o(oid) JOIN below b ON b.type = o.oid JOIN pg_type t ON t.oid = b.inner_type
LEFT JOIN below eb ON eb.type = t.typelem AND t.typcategory = 'A'
LEFT JOIN pg_type e ON e.oid = eb.inner_type
"""  # noqa: S608 - a constant
"""Types by number. `plain`: no domain, so its modifier is the column's."""

TABLES = f"""{_BELOW}
SELECT n.nspname::text AS schema, c.relname::text AS name, c.oid::bigint AS oid, c.relkind::text AS kind, c.relreplident::text AS identity,
       greatest(c.reltuples, 0)::bigint AS rows, has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AS readable,
       CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_size(c.oid) ELSE 0 END AS bytes,
       array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       array_agg(t.typname::text ORDER BY a.attnum) AS types,
       array_agg(coalesce(e.typname::text, '') ORDER BY a.attnum) AS elements,
       array_agg(CASE WHEN a.atttypid = t.oid THEN a.atttypmod ELSE b.modifier END ORDER BY a.attnum) AS modifiers,
       array_agg(a.attnotnull ORDER BY a.attnum) AS required,
       array_agg(a.attgenerated <> '' ORDER BY a.attnum) AS generated,
       array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) AS declared,
       (SELECT array_agg(k.attname::text ORDER BY o.place)
          FROM unnest(i.indkey::int2[]) WITH ORDINALITY o(number, place)
          JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = o.number
         WHERE o.place <= i.indnkeyatts) AS key,
       c.relpersistence = 'p' AND c.relkind IN ('r', 'p') AS logged,
       (SELECT array_agg(k.attname::text ORDER BY o.place)
          FROM pg_index r, unnest(r.indkey::int2[]) WITH ORDINALITY o(number, place), pg_attribute k
         WHERE r.indrelid = c.oid AND r.indisvalid AND r.indimmediate AND o.place <= r.indnkeyatts
           AND k.attrelid = c.oid AND k.attnum = o.number
           AND (c.relreplident = 'd' AND r.indisprimary OR c.relreplident = 'i' AND r.indisreplident)) AS identity_key
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN below b ON b.type = a.atttypid
JOIN pg_type t ON t.oid = b.inner_type
LEFT JOIN below eb ON eb.type = t.typelem AND t.typcategory = 'A'
LEFT JOIN pg_type e ON e.oid = eb.inner_type
LEFT JOIN LATERAL (
    SELECT i.indkey, i.indnkeyatts FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
      AND (i.indisprimary OR (SELECT bool_and(k.attnotnull) FROM pg_attribute k
                              WHERE k.attrelid = c.oid AND k.attnum = ANY (i.indkey::int2[])))
    ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid LIMIT 1
) i ON true
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
GROUP BY n.oid, n.nspname, c.oid, c.relname, c.relkind, c.relreplident, c.reltuples, c.relpersistence, i.indkey, i.indnkeyatts
ORDER BY n.nspname, c.relname
"""  # noqa: S608 - a constant
"""Tables, views and foreign tables with their columns; a partition is part of its table. `types` are those below domains. `key`:
the primary key, else a unique index whose columns cannot be null."""

_UPDATED = (
    "updated_at",
    "updatedat",
    "modified_at",
    "updated_on",
    "updated",
    "last_modified",
    "last_updated",
    "modified",
    "changed_at",
)


class Table(NamedTuple):
    """A table or a view. `kind`: as in `pg_class`; `rows`: the server's guess.

    `logged`: its changes stand in the log. `identity`: as in `pg_class.relreplident`; `identity_key`: the columns by which the log
    tells which row was changed, unless it tells all.
    """

    schema: str
    name: str
    oid: int
    kind: str
    identity: str
    rows: int
    bytes: int
    readable: bool
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    logged: bool
    identity_key: tuple[str, ...]

    @property
    def known_as(self) -> StreamName:
        """The name of its stream."""
        return StreamName(self.name, self.schema)

    @property
    def quoted(self) -> str:
        """Its name as SQL has it."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    def column(self, name: str) -> Column | None:
        """Returns the column of this name."""
        return next((each for each in self.columns if each.name == name), None)

    def stream(self) -> Stream:
        """Returns it as a stream that can be read by a cursor."""
        cursors = [each for each in self.columns if each.ordered]
        proposed = next((each.name for name in _UPDATED for each in cursors if each.name.lower() == name), None)
        return Stream(
            name=self.name,
            namespace=self.schema,
            json_schema=schema_of(self.columns),
            modes=("full_refresh", "incremental") if cursors else ("full_refresh",),
            cursor=(proposed,) if proposed else (),
            primary_key=tuple((name,) for name in self.key),
        )


def schema_of(columns: Sequence[Column]) -> dict[str, object]:
    """Returns the JSON Schema of rows with these columns."""
    return {"type": "object", "properties": {each.name: each.schema() for each in columns}}


async def tables(
    driver: asyncpg.Connection, schemas: Sequence[str], wanted: Sequence[str], unwanted: Sequence[str]
) -> list[Table]:
    """Returns the tables of some schemas, or of all, that patterns choose."""
    found = [_table(row) for row in await driver.fetch(TABLES, list(schemas))]
    return [each for each in found if (not wanted or _any(each, wanted)) and not _any(each, unwanted)]


def _any(table: Table, patterns: Sequence[str]) -> bool:
    return any(
        each in (table.name, f"{table.schema}.{table.name}")  # a name may hold what is special in a pattern
        or fnmatchcase(f"{table.schema}.{table.name}" if "." in each else table.name, each)
        for each in patterns
    )


def _table(row: asyncpg.Record) -> Table:
    described = zip(
        row["columns"], row["types"], row["elements"], row["modifiers"], row["required"], row["declared"], row["generated"], strict=True
    )  # fmt: skip
    columns = tuple(Column(*each) for each in described)
    return Table(
        schema=row["schema"],
        name=row["name"],
        oid=row["oid"],
        kind=row["kind"],
        identity=row["identity"],
        rows=row["rows"],
        bytes=row["bytes"],
        readable=row["readable"],
        columns=columns,
        key=tuple(row["key"] or ()),
        logged=row["logged"],
        identity_key=tuple(row["identity_key"] or ()),
    )
