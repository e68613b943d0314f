"""Shared by the sources that are databases: tables as streams, conditions of pages, states, cuts of rows.

    tables.py   columns and tables as a source describes them, streams, JSON Schemas    wanted.py   which tables and columns are read
    dialect.py  how a database writes texts, positions and pages                        plan.py     what one read of a table asks for
    states.py   how far a table is read                                                 reading.py  the read itself; the only part that waits

A source describes its tables (`Table`), gives a `Dialect` and a `Server`, and calls `read_tables`. How rows are read, and why no row
is missed, stands in `plan.py`.
"""
