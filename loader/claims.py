"""Which source path gets which column name, for one table and one batch.

Two paths that fold to one name share the column if their values never meet in a row; otherwise the later one gets its name with
the hash of its path. The choice is stable: "later" is decided by the paths themselves (shorter first, then by spelling), not by
who came first, and a path whose hashed column exists in the live table uses it from then on. Names of the layout and of the
loader are never shared: a client's path that folds to one of them always gets its hash.

Pure.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from loader.batch import RawTable
from loader.columns import Part, Source
from loader.layouts.contract import Fixed
from loader.names import Namer, Path

_HASH_LENGTHS = (8, 16, 32, 48)


@dataclass(slots=True)
class Claim:
    """A column name with the values that want to go there. `nameless`: nothing was free, the values must go elsewhere."""

    name: str
    key: str
    parts: list[Part]
    paths: list[Path]
    fixed: Fixed | None = None
    nameless: bool = False


def claim_names(raw: RawTable, live: Container[str], namer: Namer) -> list[Claim]:
    """Returns the columns of a batch: those of the layout first, then the client's as they were first seen.

    `live`: keys of the live table's columns.
    """
    claims: dict[str, Claim] = {}
    wanted: dict[str, list[tuple[Source, tuple[Part, ...]]]] = {}
    moved: list[tuple[Source, tuple[Part, ...]]] = []
    for source, parts in raw.columns:
        if source.fixed is not None:
            claims[source.key] = Claim(source.name, source.key, list(parts), [source.path], source.fixed)
    for source, parts in raw.columns:
        if source.fixed is not None:
            continue
        if source.suffixed_key in live or source.key in raw.reserved or source.key in claims:
            moved.append((source, parts))
        else:
            wanted.setdefault(source.key, []).append((source, parts))
    for key, sources in wanted.items():
        if len(sources) > 1:
            sources.sort(key=lambda each: (len(each[0].path), each[0].path))
        first, parts = sources[0]
        claim = claims[key] = Claim(first.name, key, list(parts), [first.path])
        moved.extend(each for each in sources[1:] if not _share(claim, *each, len(raw)))
    for source, parts in moved:
        _move(source, parts, claims, namer, len(raw))
    return list(claims.values())


def _move(source: Source, parts: tuple[Part, ...], claims: dict[str, Claim], namer: Namer, rows: int) -> None:
    for length in _HASH_LENGTHS:
        name = source.suffixed if length == 8 else namer.suffixed(source.name, source.path, length)
        key = namer.key(name)
        claim = claims.get(key)
        if claim is None:
            claims[key] = Claim(name, key, list(parts), [source.path])
            return
        if claim.fixed is None and _share(claim, source, parts, rows):
            return
    nameless = namer.key(f"{source.suffixed}\0{len(claims)}")
    claims[nameless] = Claim(source.suffixed, nameless, list(parts), [source.path], nameless=True)


def _share(claim: Claim, source: Source, parts: tuple[Part, ...], rows: int) -> bool:
    """Lets a path into a column whose rows it never meets."""
    present = np.zeros(rows, dtype=np.bool_)
    for part in claim.parts:
        present[part.rows] = True
    if any(present[part.rows].any() for part in parts):
        return False
    claim.parts.extend(parts)
    claim.paths.append(source.path)
    return True
