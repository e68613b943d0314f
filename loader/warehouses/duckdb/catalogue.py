"""What DuckDB's catalogue is asked: columns, keys, views, foreign keys. Names of tables are compared without regard to case."""

# ruff: noqa: S608 - nothing but `ASKED` is put in
from __future__ import annotations

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

OWN_KEYS = """
SELECT index_name FROM duckdb_indexes() WHERE database_name = current_database() AND schema_name = ? AND starts_with(index_name, ?)"""
