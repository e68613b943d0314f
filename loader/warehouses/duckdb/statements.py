"""SQL text for DuckDB: the ledger, the catalogue. Pure; names arrive raw and leave quoted."""

# ruff: noqa: S608 - names are quoted by loader/sql/dialect.py, values are bound

from __future__ import annotations

from loader.sql.text import LEDGER
from loader.warehouses.duckdb.dialect import DIALECT

ROWS = "_penstock_rows"
"""The name under which a load's Arrow table is scanned."""

SETTINGS = "SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false"

ASKED = "(SELECT unnest($2::VARCHAR[]) AS asked) AS a"

COLUMNS = f"""
SELECT asked, column_name, data_type, is_nullable, column_default, is_generated, comment
FROM duckdb_columns() JOIN {ASKED} ON lower(table_name) = lower(asked)
WHERE database_name = current_database() AND schema_name = $1 ORDER BY asked, column_index"""
"""Columns of tables by schema and names; `asked` is the name as it was given."""

VIEWS = f"""
SELECT asked FROM duckdb_views() JOIN {ASKED} ON lower(view_name) = lower(asked)
WHERE database_name = current_database() AND schema_name = $1"""
"""Which of some names are those of views."""

INDEXES = """
SELECT index_name, sql FROM duckdb_indexes()
WHERE database_name = current_database() AND schema_name = ? AND lower(table_name) = lower(?)"""

KEYS = f"""
SELECT asked, index_name AS name, expressions::VARCHAR[] AS columns, false AS quoted, false AS primary
FROM duckdb_indexes() JOIN {ASKED} ON lower(table_name) = lower(asked)
WHERE is_unique AND NOT is_primary AND database_name = current_database() AND schema_name = $1
UNION ALL
SELECT asked, constraint_name, constraint_column_names, true, constraint_type = 'PRIMARY KEY'
FROM duckdb_constraints() JOIN {ASKED} ON lower(table_name) = lower(asked)
WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE') AND database_name = current_database() AND schema_name = $1"""
"""What ON CONFLICT can use. Expressions of an index are SQL text (`quoted` false), names of a constraint are names."""

INDEXED = f"""
SELECT asked, unnest(expressions::VARCHAR[]) FROM duckdb_indexes() JOIN {ASKED} ON lower(table_name) = lower(asked)
WHERE database_name = current_database() AND schema_name = $1
UNION ALL
SELECT asked, unnest(constraint_column_names) FROM duckdb_constraints() JOIN {ASKED} ON lower(table_name) = lower(asked)
WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE', 'FOREIGN KEY') AND database_name = current_database() AND schema_name = $1"""
"""Columns that a merge cannot change, as names or as SQL text."""

REFERENCES = """
SELECT table_name, referenced_table FROM duckdb_constraints()
WHERE constraint_type = 'FOREIGN KEY' AND database_name = current_database() AND schema_name = ? AND table_name <> referenced_table"""
"""Which tables refer to which others by foreign keys."""

OWN_INDEXES = """
SELECT index_name FROM duckdb_indexes() WHERE database_name = current_database() AND schema_name = ? AND starts_with(index_name, ?)"""


def create_ledger(schema: str) -> str:
    """Returns the DDL of the ledger and its schema."""
    return f"""
    CREATE SCHEMA IF NOT EXISTS {DIALECT.identifier(schema)};
    CREATE TABLE IF NOT EXISTS {DIALECT.qualified(schema, LEDGER)} (
        connection VARCHAR NOT NULL,
        table_name VARCHAR NOT NULL,
        lane VARCHAR NOT NULL,
        epoch BIGINT NOT NULL,
        last_sequence BIGINT NOT NULL,
        rows BIGINT NOT NULL,
        loaded_at TIMESTAMP WITH TIME ZONE NOT NULL,
        PRIMARY KEY (connection, table_name, lane)
    )"""


def read_epoch(schema: str) -> str:
    """Returns the query of a connection's epoch and count of loads: $1 connection."""
    return f"SELECT epoch, last_sequence FROM {DIALECT.qualified(schema, LEDGER)} WHERE connection = $1 AND table_name = '' AND lane = ''"


def write_epoch(schema: str) -> str:
    """Returns the statement that sets a connection's epoch: $1 connection, $2 epoch."""
    return f"""
    INSERT INTO {DIALECT.qualified(schema, LEDGER)} VALUES ($1, '', '', $2, 0, 0, now())
    ON CONFLICT (connection, table_name, lane) DO UPDATE SET epoch = EXCLUDED.epoch, loaded_at = EXCLUDED.loaded_at"""


def count_load(schema: str) -> str:
    """Returns the statement that counts a load: $1 connection."""
    return f"""
    UPDATE {DIALECT.qualified(schema, LEDGER)} SET last_sequence = last_sequence + 1, loaded_at = now()
    WHERE connection = $1 AND table_name = '' AND lane = ''"""


def read_marks(schema: str) -> str:
    """Returns the query of a connection's marks: $1 connection."""
    return f"SELECT table_name, lane, last_sequence FROM {DIALECT.qualified(schema, LEDGER)} WHERE connection = $1 AND table_name <> ''"


def forget_marks(schema: str) -> str:
    """Returns the statement that removes marks: $1 connection, $2 tables, $3 the lane of each."""
    return f"""
    DELETE FROM {DIALECT.qualified(schema, LEDGER)} WHERE connection = $1 AND table_name <> ''
    AND (table_name, lane) IN (SELECT unnest($2::VARCHAR[]), unnest($3::VARCHAR[]))"""


def id_columns(schema: str) -> str:
    """Returns the query of the tables that a connection loads and their columns of ids: $1 schema, $2 connection, $3 columns."""
    return f"""
    SELECT table_name, min(list_position($3::VARCHAR[], column_name)) FROM duckdb_columns()
    WHERE database_name = current_database() AND schema_name = $1 AND list_contains($3::VARCHAR[], column_name)
      AND lower(table_name) IN (SELECT lower(table_name) FROM {DIALECT.qualified(schema, LEDGER)} WHERE connection = $2)
    GROUP BY 1"""


def count_ids(schema: str, table: str, column: str) -> str:
    """Returns the query of how often ids are in a table: $1 ids."""
    name = DIALECT.identifier(column)
    return f"""
    SELECT {name}::VARCHAR, count(*) FROM {DIALECT.qualified(schema, table)}
    WHERE {name}::VARCHAR IN (SELECT unnest($1::VARCHAR[])) GROUP BY 1"""


def write_marks(schema: str) -> str:
    """Returns the statement that writes the marks of a load: $1 connection, $2 epoch, $3 lane, $4 last sequence, $5 tables, $6
    rows.
    """
    return f"""
    INSERT INTO {DIALECT.qualified(schema, LEDGER)} AS l
    SELECT $1, unnest($5::VARCHAR[]), $3, $2, $4, unnest($6::BIGINT[]), now()
    ON CONFLICT (connection, table_name, lane) DO UPDATE SET
        epoch = EXCLUDED.epoch, last_sequence = greatest(l.last_sequence, EXCLUDED.last_sequence),
        rows = l.rows + EXCLUDED.rows, loaded_at = EXCLUDED.loaded_at"""


def uncastable(column: str, native: str, *, nullable: bool) -> str:
    """Returns the query of the rows (by their `_penstock_index`) whose value a column's type cannot hold."""
    name = DIALECT.identifier(column)
    empty = "" if nullable else f"{name} IS NULL OR "
    return f"SELECT _penstock_index FROM {ROWS} WHERE {empty}({name} IS NOT NULL AND TRY_CAST({name} AS {native}) IS NULL)"
