"""SQL text for Postgres: the ledger, the catalogue, staging tables. Pure; names arrive raw and leave quoted."""

# ruff: noqa: S608 - names are quoted by loader/sql/dialect.py, values are bound
from __future__ import annotations

from collections.abc import Mapping

from loader.sql.text import LEDGER
from loader.warehouses.postgres.dialect import DIALECT

COLUMNS = """
SELECT c.oid::int8 AS oid, c.relname::text AS name, c.relkind::text AS relkind, row_security_active(c.oid) AS guarded,
       a.attname::text AS column, format_type(a.atttypid, a.atttypmod) AS native,
       CASE WHEN t.typtype = 'd' THEN (
           WITH RECURSIVE below AS (
               SELECT t.typbasetype AS type, t.typtypmod AS mod
               UNION ALL
               SELECT u.typbasetype, u.typtypmod FROM below JOIN pg_type u ON u.oid = below.type WHERE u.typtype = 'd'
           )
           SELECT format_type(below.type, below.mod) FROM below JOIN pg_type u ON u.oid = below.type WHERE u.typtype <> 'd'
       ) END AS base,
       CASE WHEN t.typtype <> 'b' OR t.typelem <> 0 THEN (
           WITH RECURSIVE below AS (
               SELECT t.oid AS type, a.atttypmod AS mod
               UNION ALL
               SELECT CASE u.typtype WHEN 'd' THEN u.typbasetype ELSE u.typelem END,
                      CASE u.typtype WHEN 'd' THEN u.typtypmod ELSE below.mod END
               FROM below JOIN pg_type u ON u.oid = below.type WHERE u.typtype = 'd' OR u.typcategory = 'A'
           )
           SELECT ARRAY[format_type(below.type, below.mod), u.typtype::text]
           FROM below JOIN pg_type u ON u.oid = below.type WHERE NOT (u.typtype = 'd' OR u.typcategory = 'A')
       ) END AS inside,
       CASE WHEN a.atthasdef AND a.attgenerated = '' THEN (
           SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum
       ) END AS default,
       a.attidentity <> 'a' AND a.attgenerated = '' AS writable,
       CASE WHEN a.attidentity = 'd' THEN pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname) END AS sequence,
       CASE WHEN t.typtype = 'e' THEN (SELECT array_agg(e.enumlabel::text) FROM pg_enum e WHERE e.enumtypid = t.oid) END AS labels,
       t.typreceive <> 0 AS received, d.description AS comment
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = a.attnum
WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND c.relkind IN ('r', 'p', 'f', 'v')
ORDER BY c.oid, a.attnum
"""
"""Columns of tables by schema and names; a table without columns is one row with a null column. `guarded`: rows are under a
policy for us. `base`: the type below a domain. `inside`: the type below domains and arrays, and whether it is composite (`c`) or
a range (`r`). `received`: the type has a binary form."""

KEYS = """
SELECT i.indrelid::int8 AS oid, ic.relname::text AS name, i.indisprimary AS primary, con.oid IS NOT NULL AS constraint,
       (SELECT array_agg(a.attname::text ORDER BY k.n)
          FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
         WHERE k.n <= i.indnkeyatts) AS columns
FROM pg_index i
JOIN pg_class ic ON ic.oid = i.indexrelid
LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid AND con.contype IN ('p', 'u')
WHERE i.indrelid = ANY($1::int8[]::oid[]) AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY ic.relname
"""
"""Unique indexes of tables that ON CONFLICT can use."""

NOT_TABLES = """
SELECT c.relname::text AS name,
       CASE c.relkind WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' ELSE 'index' END AS thing
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND c.relkind NOT IN ('r', 'p', 'f', 'v')
"""
"""What else has the names of tables; they share their names."""

REFERENCES = """
SELECT c.relname::text AS child, p.relname::text AS parent
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.oid = p.relnamespace
WHERE k.contype = 'f' AND n.nspname = $1 AND c.relname = ANY($2::text[]) AND p.relname = ANY($2::text[]) AND c.oid <> p.oid
"""
"""Which of some tables refer to which others of them by foreign keys."""

ADVISORY_LOCKS = "SELECT pg_advisory_xact_lock(hashtextextended(name, 7306)) FROM unnest($1::text[]) AS t(name)"
"""Held to the end of the transaction; the seed keeps clear of locks other programs take on the same text."""


def create_ledger(schema: str) -> str:
    """Returns the DDL of the ledger."""
    return f"""
    CREATE TABLE IF NOT EXISTS {DIALECT.qualified(schema, LEDGER)} (
        connection text NOT NULL,
        table_name text NOT NULL,
        lane text NOT NULL,
        epoch bigint NOT NULL,
        last_sequence bigint NOT NULL,
        rows bigint NOT NULL,
        loaded_at timestamp with time zone NOT NULL DEFAULT now(),
        PRIMARY KEY (connection, table_name, lane)
    ) WITH (fillfactor = 50)"""  # a stream updates its rows many times a second: room for updates in place


def raise_epoch(schema: str) -> str:
    """Returns the statement that claims a connection: $1 connection, $2 epoch. It gives the count of loads; no row comes back
    when a newer epoch exists."""
    return f"""
    INSERT INTO {DIALECT.qualified(schema, LEDGER)} AS l (connection, table_name, lane, epoch, last_sequence, rows)
    VALUES ($1, '', '', $2, 0, 0)
    ON CONFLICT (connection, table_name, lane) DO UPDATE SET epoch = EXCLUDED.epoch, loaded_at = now()
    WHERE l.epoch <= EXCLUDED.epoch
    RETURNING l.last_sequence"""


def read_epoch(schema: str) -> str:
    """Returns the query of a connection's epoch: $1 connection."""
    return f"SELECT epoch FROM {DIALECT.qualified(schema, LEDGER)} WHERE connection = $1 AND table_name = '' AND lane = ''"


def read_marks(schema: str) -> str:
    """Returns the query of a connection's marks: $1 connection."""
    return f"""
    SELECT table_name, lane, last_sequence FROM {DIALECT.qualified(schema, LEDGER)} WHERE connection = $1 AND table_name <> ''"""


def forget_marks(schema: str) -> str:
    """Returns the statement that removes marks: $1 connection, $2 tables, $3 the lane of each."""
    return f"""
    DELETE FROM {DIALECT.qualified(schema, LEDGER)}
    WHERE connection = $1 AND table_name <> '' AND (table_name, lane) IN (SELECT * FROM unnest($2::text[], $3::text[]))"""


def id_columns(schema: str) -> str:
    """Returns the query of the tables that a connection loads and their columns of ids: $1 schema, $2 connection, $3 columns."""
    return f"""
    SELECT c.table_name::text AS table, min(array_position($3::text[], c.column_name::text)) AS place
    FROM information_schema.columns c
    WHERE c.table_schema = $1 AND c.column_name = ANY($3::text[])
      AND c.table_name IN (SELECT table_name FROM {DIALECT.qualified(schema, LEDGER)} WHERE connection = $2)
    GROUP BY 1"""


def count_ids(schema: str, table: str, column: str) -> str:
    """Returns the query of how often ids are in a table: $1 ids."""
    name = DIALECT.identifier(column)
    return f"SELECT {name}::text AS id, count(*) AS times FROM {DIALECT.qualified(schema, table)} WHERE {name}::text = ANY($1::text[]) GROUP BY 1"


def write_marks(schema: str) -> str:
    """Returns the statement that checks the epoch, counts the load and writes its marks, last before COMMIT.

    $1 connection, $2 epoch, $3 lane, $4 last sequence, $5 tables, $6 rows of each, $7 loads so far. No row comes back when the
    epoch is no longer ours, or the count of loads is another: the tables are not as the session left them. The lock on the
    epoch's row makes a successor wait for our COMMIT, and us for its claim, whichever came first.
    """
    return f"""
    WITH mine AS MATERIALIZED (
        UPDATE {DIALECT.qualified(schema, LEDGER)} SET last_sequence = last_sequence + 1, loaded_at = now()
        WHERE connection = $1 AND table_name = '' AND lane = '' AND epoch = $2 AND last_sequence = $7
        RETURNING epoch
    )
    INSERT INTO {DIALECT.qualified(schema, LEDGER)} AS l (connection, table_name, lane, epoch, last_sequence, rows)
    SELECT $1, t.name, $3, mine.epoch, $4, t.rows FROM mine, unnest($5::text[], $6::bigint[]) AS t(name, rows)
    ON CONFLICT (connection, table_name, lane) DO UPDATE SET
        epoch = EXCLUDED.epoch, last_sequence = greatest(l.last_sequence, EXCLUDED.last_sequence),
        rows = l.rows + EXCLUDED.rows, loaded_at = now()
    RETURNING 1"""


def create_stage(stage: str, columns: Mapping[str, str]) -> str:
    """Returns the DDL of a temporary table that lives for one transaction. `columns`: name to SQL type."""
    inside = ", ".join(f"{DIALECT.identifier(name)} {native}" for name, native in columns.items())
    return f"CREATE TEMPORARY TABLE {DIALECT.identifier(stage)} ({inside}) ON COMMIT DROP"
