"""The parts of the Postgres plug-in (`loader/warehouses/postgres.py`), shared with warehouses that speak its dialect.

`types.py`, `statements.py` and `errors.py` are pure; `connect.py` opens, `copy.py` sends rows, `patch.py` changes tables,
`ledger.py` keeps what is loaded and who may load.
"""
