"""What a plug-in need not do, with the reason; a test holds that this list says neither more nor less than the capabilities.

A scenario that needs a capability is marked `@pytest.mark.needs("merge")`.
"""

from __future__ import annotations

WAIVERS = {
    ("clickhouse", "transactional"): "each table of a load is one insert; its token makes a repeat harmless",
    (
        "clickhouse",
        "coalesce",
    ): "the server keeps whole rows: a newer row of a key takes the place of the older one, nulls included",
    ("clickhouse", "deletes"): "a merge becomes true later, and the row of a deletion would be one of the table until then",
    ("clickhouse", "insert_only"): "the server does not look for a key before it stores a row",
    ("clickhouse", "history"): "the end of a version would be a change of a stored row, and an insert changes none",
    ("local", "transactional"): "objects of a load appear one after the other; their names make a repeat harmless",
    ("local", "merge"): "an object is never rewritten: its readers keep the newest row of a key",
    ("local", "deletes"): "an object is never rewritten",
    ("local", "insert_only"): "an object is written without a look at the others",
    ("local", "history"): "an object is never rewritten: versions have no end",
    ("local", "replace"): "a listing in the middle of the swap would have old and new files, or neither",
    ("local", "stream"): "a micro-batch would make a file of a few rows",
    ("local", "evolve"): "each object has the columns of its rows",
    ("s3", "transactional"): "objects of a load appear one after the other; their names make a repeat harmless",
    ("s3", "merge"): "an object is never rewritten: its readers keep the newest row of a key",
    ("s3", "deletes"): "an object is never rewritten",
    ("s3", "insert_only"): "an object is written without a look at the others",
    ("s3", "history"): "an object is never rewritten: versions have no end",
    ("s3", "replace"): "a listing in the middle of the swap would have old and new objects, or neither",
    ("s3", "stream"): "a micro-batch would make an object of a few rows",
    ("s3", "evolve"): "each object has the columns of its rows",
    ("azure", "transactional"): "objects of a load appear one after the other; their names make a repeat harmless",
    ("azure", "merge"): "an object is never rewritten: its readers keep the newest row of a key",
    ("azure", "deletes"): "an object is never rewritten",
    ("azure", "insert_only"): "an object is written without a look at the others",
    ("azure", "history"): "an object is never rewritten: versions have no end",
    ("azure", "replace"): "a listing in the middle of the swap would have old and new objects, or neither",
    ("azure", "stream"): "a micro-batch would make an object of a few rows",
    ("azure", "evolve"): "each object has the columns of its rows",
}
