"""What DuckDB's catalogue is asked: columns, keys, views, foreign keys. Names of tables are compared without regard to the case of ASCII."""

# ruff: noqa: S608 - nothing but names of columns is put in
from __future__ import annotations

import string


def _same(one: str, other: str) -> str:
    """Returns SQL that compares names as DuckDB does, whose `lower` folds letters that it tells apart in names."""
    lower = "translate({}, '" + string.ascii_uppercase + "', '" + string.ascii_lowercase + "')"
    return f"{lower.format(one)} = {lower.format(other)}"


ASKED = "(SELECT unnest($2::VARCHAR[]) AS asked) AS a"

COLUMNS = f"""
SELECT asked, column_name, data_type, is_nullable, column_default, is_generated, comment
FROM duckdb_columns() JOIN {ASKED} ON {_same("table_name", "asked")}
WHERE database_name = current_database() AND schema_name = $1 ORDER BY asked, column_index"""
"""Columns of tables by schema and names; `asked` is the name as it was given."""

VIEWS = f"""
SELECT asked FROM duckdb_views() JOIN {ASKED} ON {_same("view_name", "asked")}
WHERE database_name = current_database() AND schema_name = $1"""
"""Which of some names are those of views."""

INDEXES = f"""
SELECT index_name, sql FROM duckdb_indexes()
WHERE database_name = current_database() AND schema_name = ? AND {_same("table_name", "?")}"""

KEYS = f"""
SELECT asked, index_name AS name, expressions::VARCHAR[] AS columns, false AS quoted, false AS primary
FROM duckdb_indexes() JOIN {ASKED} ON {_same("table_name", "asked")}
WHERE is_unique AND NOT is_primary AND database_name = current_database() AND schema_name = $1
UNION ALL
SELECT asked, constraint_name, constraint_column_names, true, constraint_type = 'PRIMARY KEY'
FROM duckdb_constraints() JOIN {ASKED} ON {_same("table_name", "asked")}
WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE') AND database_name = current_database() AND schema_name = $1"""
"""What ON CONFLICT can use. Expressions of an index are SQL text (`quoted` false), names of a constraint are names."""

INDEXED = f"""
SELECT asked, unnest(expressions::VARCHAR[]) FROM duckdb_indexes() JOIN {ASKED} ON {_same("table_name", "asked")}
WHERE database_name = current_database() AND schema_name = $1
UNION ALL
SELECT asked, unnest(constraint_column_names) FROM duckdb_constraints() JOIN {ASKED} ON {_same("table_name", "asked")}
WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE', 'FOREIGN KEY') AND database_name = current_database() AND schema_name = $1"""
"""Columns that a merge cannot change, as names or as SQL text."""

REFERENCES = """
SELECT table_name, referenced_table FROM duckdb_constraints()
WHERE constraint_type = 'FOREIGN KEY' AND database_name = current_database() AND schema_name = ? AND table_name <> referenced_table"""
"""Which tables refer to which others by foreign keys."""

OWN_KEYS = """
SELECT index_name FROM duckdb_indexes() WHERE database_name = current_database() AND schema_name = ? AND starts_with(index_name, ?)"""

GUARDS = """
SELECT table_name, index_name FROM duckdb_indexes()
WHERE database_name = current_database() AND schema_name = ? AND starts_with(index_name, ?)"""
