"""Options of a staging store, as a destination has them under `staging`."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, field

from shared.reading.units import Duration
from shared.stores.s3.options import S3Options

DAY = 86_400.0
LEAST_KEPT = 3600.0
"""Seconds. A load takes less, so no sweep removes an object that a warehouse is about to read."""
LONGEST_PREFIX = 300
"""Bytes. A key has 1024; connection, plan and name take up to 100 each."""

_PLAIN_PREFIX = re.compile(r"[A-Za-z0-9._/-]*")

Kept = Annotated[Duration, Meta(description="how long objects of loads that never ended stay; an hour or more")]


class S3Staging(S3Options, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="s3"):
    """A staging store in a bucket of S3, or of a server that speaks its protocol."""

    prefix: Annotated[str, Meta(description="what all keys begin with; of one project alone, with nothing else below it")] = (
        "penstock/"
    )
    lend_keys: Annotated[
        bool,
        Meta(
            description="give the warehouse the loader's keys with each statement; `false`: it has rights of its own to read the bucket"
        ),
    ] = True
    keep: Kept = field(default_factory=lambda: Duration(DAY))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _PLAIN_PREFIX.fullmatch(self.prefix) or self.prefix.startswith("/") or ".." in self.prefix.split("/"):
            # warehouses read `*`, `?` and `{` in an address as patterns, and `=` as a column
            raise ValueError("prefix: letters and digits of ASCII, `.`, `-`, `_` and `/` only, and no `/` in front")
        if len(self.prefix) > LONGEST_PREFIX:
            raise ValueError(f"prefix: longer than {LONGEST_PREFIX} bytes")
        check_kept(self.keep)

    @property
    def root(self) -> str:
        """The prefix of all keys, with its slash at the end."""
        return f"{self.prefix.rstrip('/')}/" if self.prefix else ""


class LocalStaging(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="local"):
    """A staging store in a directory that loader and warehouse both see."""

    path: Annotated[
        str, Meta(min_length=1, description="the directory; made if missing. Of one project alone, with nothing else in it")
    ]
    keep: Kept = field(default_factory=lambda: Duration(DAY))

    def __post_init__(self) -> None:
        check_kept(self.keep)


StagingOptions = S3Staging | LocalStaging


def check_kept(keep: float) -> None:
    """Checks the time for which leftovers stay.

    Raises:
        ValueError: too short.
    """
    if keep < LEAST_KEPT:
        raise ValueError("keep: expected 1h or more, or a load under way could lose its objects")
