"""Assigns column names to source paths, for one table and one batch.

Two paths that fold to one name share the column. If a row has values of both, one path gives way, and its value goes to a column
with the hash of its path; other rows do not change, so one event changes nothing for others. The same path stays in every batch,
after a restart and for every loader: the path that the column was made for, which is stored with the column (`Column.owner`);
without that, the path that is spelled like the column; then the shorter path; then the first by spelling. Names of the layout and
of the loader are never shared: a client's path that folds to one of them always gets its hash.

Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from loader.contract.warehouse import Column
from loader.rows.batch import RawTable
from loader.rows.columns import Part, Source
from loader.rows.layouts.contract import Fixed
from loader.types.names import Namer, Path

_HASH_LENGTHS = (8, 16, 32, 48)
_LONGEST_OWNER = 300


@dataclass(slots=True)
class Claim:
    """A column name with the values for it; first the values of the path that it is made for.

    `nameless`: no name was free, so the values must go elsewhere.
    """

    name: str
    key: str
    parts: list[Part]
    paths: list[Path]
    fixed: Fixed | None = None
    nameless: bool = False

    @property
    def owner(self) -> str | None:
        """The path that owns a column made for this claim; None if no client's path may own it."""
        return spell(self.paths[0]) if self.fixed is None else None


def spell(path: Path) -> str:
    """Returns a path as it is stored with the column: JSON in ASCII, or its hash if that is long."""
    text = json.dumps(path, separators=(",", ":"))
    return text if len(text) <= _LONGEST_OWNER else hashlib.sha256(text.encode()).hexdigest()


def claim_names(raw: RawTable, live: Mapping[str, Column], namer: Namer) -> list[Claim]:
    """Returns the columns of a batch: the layout's first, then the client's as they first came.

    `live`: the live table's columns by key.
    """
    claims: dict[str, Claim] = {}
    wanted: dict[str, list[tuple[Source, tuple[Part, ...]]]] = {}
    moved: list[tuple[Source, Sequence[Part]]] = []
    for source, parts in raw.columns:
        if source.fixed is not None:
            claims[source.key] = Claim(
                name=source.name, key=source.key, parts=list(parts), paths=[source.path], fixed=source.fixed
            )
    for source, parts in raw.columns:
        if source.fixed is not None:
            continue
        if source.key in raw.reserved or source.key in claims:
            moved.append((source, parts))
        else:
            wanted.setdefault(source.key, []).append((source, parts))
    for key, sources in wanted.items():
        if len(sources) > 1:
            owner = live[key].owner if key in live else None
            sources.sort(key=lambda each: _rank(each[0], owner))
        first, parts = sources[0]
        claim = claims[key] = Claim(first.name, key, list(parts), [first.path])
        for source, others in sources[1:]:
            left = _share(claim, source, others, len(raw))
            if left:
                moved.append((source, left))
    for source, left in moved:
        _move(source=source, parts=left, claims=claims, namer=namer, rows=len(raw))
    return list(claims.values())


def _rank(source: Source, owner: str | None) -> tuple[bool, bool, int, Path]:
    return owner is None or spell(source.path) != owner, not source.exact, len(source.path), source.path


def _move(source: Source, parts: Sequence[Part], claims: dict[str, Claim], namer: Namer, rows: int) -> None:
    for length in _HASH_LENGTHS:
        name = source.suffixed if length == 8 else namer.suffixed(source.name, source.path, length)
        key = namer.key(name)
        claim = claims.get(key)
        if claim is None:
            claims[key] = Claim(name, key, list(parts), [source.path])
            return
        if claim.fixed is None:
            parts = _share(claim, source, parts, rows)
            if not parts:
                return
    nameless = namer.key(f"{source.suffixed}\0{len(claims)}")
    claims[nameless] = Claim(source.suffixed, nameless, list(parts), [source.path], nameless=True)


def _share(claim: Claim, source: Source, parts: Sequence[Part], rows: int) -> Sequence[Part]:
    """Lets a path into a column; returns its values in rows that already have one there."""
    present = np.zeros(rows, dtype=np.bool_)
    for part in claim.parts:
        present[part.rows] = True
    free, left = list[Part](), list[Part]()
    for part in parts:
        met = present[part.rows]
        for marks, into in ((~met, free), (met, left)):
            if marks.all():
                into.append(part)
            elif marks.any():
                into.append(Part(part.kind, part.rows[marks], part.values.filter(pa.array(marks))))
    if free:
        claim.parts.extend(free)
        claim.paths.append(source.path)
    return left
