"""The parts of the DuckDB plug-in (`loader/warehouses/duckdb.py`).

`types.py`, `statements.py` and `errors.py` are pure; `file.py` opens and closes the database file, `patch.py` changes tables,
`write.py` is a load, both of them blocking and run on the thread gate.
"""
