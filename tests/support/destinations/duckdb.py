"""DuckDB under test: a file of its own, read by the duckdb package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.destinations.subject import Row, Shape
from tests.support.duckdb_file import opened_here


class DuckDBSubject:
    """A database file of its own."""

    label = "duckdb"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "warehouse.duckdb"
        # closed after every load, so that the tests can look into it
        self.document: dict[str, Any] = {"type": "duckdb", "path": str(self.path), "linger": 0}

    async def rows(self, table: str, shape: Shape) -> list[Row]:
        with await opened_here(self.path) as link:
            found = link.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", [table]).fetchone()
            if not found or not found[0]:
                return []
            link.execute("SET TimeZone = 'UTC'")
            quoted = table.replace('"', '""')
            rows: list[Row] = link.sql(f'SELECT * FROM main."{quoted}"').to_arrow_table().to_pylist()
            return rows

    async def tables(self) -> list[str]:
        """Returns the names of all tables."""
        with await opened_here(self.path) as link:
            return [name for (name,) in link.execute("SELECT table_name FROM duckdb_tables()").fetchall()]

    async def run(self, statement: str) -> None:
        with await opened_here(self.path) as link:
            link.execute(statement.replace("{}", "main"))
