"""Where accepted events are archived: the key `archive` of the project file.

The archive is in a directory, a bucket or a container of its own. `shared/archive/` says how it is laid out.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from shared.reading.units import ByteSize, Duration
from shared.stores.azure.options import AzureOptions
from shared.stores.s3.options import S3Options

MIB = 1024 * 1024
LONGEST_PREFIX = 300
"""Bytes. A key has 1024; the layout takes about 200."""

Period = Annotated[Duration, Meta(description="how long the first event of an object waits; 1s to 1h")]
ObjectBytes = Annotated[ByteSize, Meta(description="compressed size at which an object ends; 64KiB to 256MiB")]
Kept = Annotated[Duration, Meta(description="days older than this are removed; 0: never")]
Room = Annotated[
    ByteSize, Meta(description="most that a site's objects may take; the oldest days are removed first. 0: no bound")
]


class LocalArchive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="local"):
    """An archive in a directory that all routers and the command see."""

    path: Annotated[str, Meta(min_length=1, description="the directory; made if missing")]
    period: Period = field(default_factory=lambda: Duration(60))
    max_bytes: ObjectBytes = field(default_factory=lambda: ByteSize(16 * MIB))
    keep: Kept = field(default_factory=lambda: Duration(0))
    room: Room = field(default_factory=lambda: ByteSize(0))

    def __post_init__(self) -> None:
        check_bounds(self.period, self.max_bytes)


class S3Archive(S3Options, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="s3"):
    """An archive in a bucket of S3, or of a server that speaks its protocol."""

    prefix: Annotated[str, Meta(description="what all keys begin with")] = ""
    period: Period = field(default_factory=lambda: Duration(60))
    max_bytes: ObjectBytes = field(default_factory=lambda: ByteSize(16 * MIB))
    keep: Kept = field(default_factory=lambda: Duration(0))
    room: Room = field(default_factory=lambda: ByteSize(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self.period, self.max_bytes)
        check_prefix(self.prefix)

    @property
    def root(self) -> str:
        """The prefix of all keys, with its slash at the end."""
        return root_of(self.prefix)


class AzureArchive(AzureOptions, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="azure"):
    """An archive in a container of Azure Blob Storage."""

    prefix: Annotated[str, Meta(description="what all keys begin with")] = ""
    period: Period = field(default_factory=lambda: Duration(60))
    max_bytes: Annotated[ByteSize, Meta(description="compressed size at which an object ends; 64KiB to 128MiB")] = field(
        default_factory=lambda: ByteSize(16 * MIB)
    )
    keep: Kept = field(default_factory=lambda: Duration(0))
    room: Room = field(default_factory=lambda: ByteSize(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self.period, self.max_bytes, most_mib=128)
        check_prefix(self.prefix)

    @property
    def root(self) -> str:
        """The prefix of all keys, with its slash at the end."""
        return root_of(self.prefix)


ArchiveOptions = LocalArchive | S3Archive | AzureArchive


def root_of(prefix: str) -> str:
    """Returns a prefix with its slash at the end; empty if there is none."""
    return f"{prefix.rstrip('/')}/" if prefix else ""


def check_prefix(prefix: str) -> None:
    """Checks what keys begin with.

    Raises:
        ValueError: it is too long, or begins with a slash.
    """
    if prefix.startswith("/") or len(prefix.encode()) > LONGEST_PREFIX:
        raise ValueError(f"prefix: expected at most {LONGEST_PREFIX} bytes, and no / in front")


def check_bounds(period: float, max_bytes: int, most_mib: int = 256) -> None:
    """Checks when an object ends.

    Args:
        most_mib: bounds `max_bytes`.

    Raises:
        ValueError: a bound is out of its range.
    """
    if not 1 <= period <= 3600:
        raise ValueError("period: expected 1s to 1h")
    if not 64 * 1024 <= max_bytes <= most_mib * MIB:
        raise ValueError(f"max_bytes: expected 64KiB to {most_mib}MiB")
