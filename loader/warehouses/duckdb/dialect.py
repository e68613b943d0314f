"""How DuckDB writes SQL: as the standard does, and names are compared without regard to case."""

from __future__ import annotations

from loader.sql.dialect import Dialect


class DuckDB(Dialect):
    """DuckDB's."""

    any_value = "any_value({})"

    def fold(self, name: str) -> str:
        """Returns a name as DuckDB compares names: without regard to case, of ASCII letters only."""
        return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


DIALECT = DuckDB()
