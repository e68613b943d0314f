"""How rows change a table: the ways of `TableLoad.write`, and what each does with keys, cursors and deletions.

`append` adds the rows.

`merge`: `key` identifies a row and is unique within the load. A stored row is replaced only where its `cursor` value is not newer
than the incoming one; null cursors count as oldest. With `coalesce`, a null of the incoming row leaves the stored value as it is,
and an older row fills the stored nulls (the `users` table). Otherwise the incoming row replaces the stored one: columns missing in
`rows` get their default, or null; a value that is made for each row (a serial number, a time) stays.

With `deleted`, a row that has a value in this column is a deletion: it removes the stored row of its key, under the same
comparison of cursors, and is not stored. The column is one of the table, and null in each of its rows. Nothing of a removed row
stays, so an older row of the key that comes in a later load is stored again.

With `marked`, a row that has a value in this column marks the row of its key as deleted, which keeps its other values: where the
incoming row has nulls, the stored value stays. The comparison of cursors is the same. A key may have two rows in a load then, and
the second one marks the first.

`insert_only`: a row whose key is in the table already is left out; of several rows of a key the first is stored.

`replace`: the rows are the `part` of a full refresh. They wait where no reader of the table sees them. With the part that ends the
run they replace all rows of the table: a reader sees the old rows or the new ones, never none, some or both. The table's indexes,
grants, comments and views on it stay. With a `key`, rows of the run that share it become one, as in a merge. The part that ends
the run may have no rows, and no columns.

`history`: the table keeps each version of a key in a row of its own, with the columns of `HISTORY`. A load may have several
versions of a key, in any order, and `rows` has none of these columns. A version is true from `_valid_from` until `_valid_to`,
exclusive; the one that is still true has null there, and `_current` is true. Two versions of a key never overlap.

- If the cursor is a time or a date, a version begins at its cursor; at `BEGINNING` where that is null. Key and beginning identify
  a version. So a row that comes again changes nothing, one with other values replaces the version that begins at its time, and a
  late row gets its place between the versions around it. A deletion ends the version of its time; one that begins at this moment
  is removed.
- If the cursor is of another kind, it tells only which row is newer. A row older than the newest version of its key is left out;
  one with the same cursor replaces the values of this version; the versions of newer ones begin at the load's time `at`, a
  microsecond after each other in the order of their cursors.
- Without a cursor the last row of a key in the load is its version; it begins at `at`. If it has the values of the current
  version, it makes none. `NOT_COMPARED` columns tell of the load, not of the row.
- Of two rows with one cursor the later one counts, in a load and between loads.

A deletion ends the current version and makes none; a row that comes after it begins a new one. Rows that are in a table before it
keeps versions become current versions since `BEGINNING`. Where the warehouse can, it refuses a second current version of a key.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TypeAlias

Write: TypeAlias = Literal["append", "merge", "replace", "insert_only", "history"]

VALID_FROM, VALID_TO, CURRENT = "_valid_from", "_valid_to", "_current"
HISTORY = (VALID_FROM, VALID_TO, CURRENT)
"""The columns of a table that keeps versions: two timestamps and a boolean."""

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
"""The first moment that all warehouses with versions have."""

LOADED_AT, SEQUENCE, LOAD_ID = "_loaded_at", "_seq", "_load_id"
NOT_COMPARED = frozenset((LOADED_AT, SEQUENCE, LOAD_ID))
