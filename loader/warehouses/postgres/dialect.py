"""How Postgres writes SQL: as the standard does."""

from __future__ import annotations

from loader.sql.dialect import Dialect

DIALECT = Dialect()
"""`standard_conforming_strings` is on: `connect.py` sets it."""
