"""Options of connectors that are programs: the bounds of a run, and names of images. Light: it is imported to check a project file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, field

from shared.reading.units import ByteSize, Duration

if TYPE_CHECKING:
    from connector_runner.programs.packages import Recipe
    from connector_runner.programs.program import Limits


_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._/-]*(:[0-9]+/[a-zA-Z0-9._/-]+)?(:[A-Za-z0-9_][A-Za-z0-9._-]*|@sha256:[0-9a-f]{64})")
_VERSION = re.compile(r"v?[0-9][0-9A-Za-z.!+_-]*")


class Bounded(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a run."""

    max_time: Annotated[Duration, Meta(description="longest run")] = field(default_factory=lambda: Duration(86_400))
    cpu_time: Annotated[Duration, Meta(description="most CPU time of one run")] = field(default_factory=lambda: Duration(86_400))
    stall_timeout: Annotated[Duration, Meta(description="longest silence")] = field(default_factory=lambda: Duration(3600))
    memory: Annotated[ByteSize, Meta(description="most memory of its processes together")] = field(
        default_factory=lambda: ByteSize(2 << 30)
    )
    max_line: Annotated[ByteSize, Meta(description="longest message, and so the largest row")] = field(
        default_factory=lambda: ByteSize(32 << 20)
    )
    disk: Annotated[ByteSize, Meta(description="most bytes of files in its private folder")] = field(
        default_factory=lambda: ByteSize(10 << 30)
    )

    def limits(self) -> Limits:
        """Returns them as a run wants them."""
        from connector_runner.programs.program import Limits

        return Limits(
            seconds=float(self.max_time),
            cpu_seconds=float(self.cpu_time),
            stall_seconds=float(self.stall_timeout),
            memory_bytes=int(self.memory),
            line_bytes=int(self.max_line),
            disk_bytes=int(self.disk),
        )


class Packaged(Bounded, frozen=True, kw_only=True):
    """Options of the environment of a Python package."""

    build: Annotated[list[str], Meta(description="packages without a wheel that uv may build, by name")] = field(
        default_factory=list
    )
    requires: Annotated[
        list[str],
        Meta(
            description="requirements beside the package's own, such as `setuptools<81`, where its own fit no more what is published now"
        ),
    ] = field(default_factory=list)
    python: Annotated[
        str | None,
        Meta(
            description="version of Python for its environment, such as `3.10`, or the path of one; default: what the package needs"
        ),
    ] = None

    def recipe(self) -> Recipe:
        """Returns them as an installation wants them."""
        from connector_runner.programs.packages import Recipe

        return Recipe(build=tuple(self.build), requires=tuple(self.requires), python=self.python or "")


def check_version(written: str) -> None:
    """Raises `ValueError` for a version that is not one alone, such as `latest` or `>=1`."""
    if not _VERSION.fullmatch(written):
        raise ValueError(f"`version` is {written!r}; write an exact one such as 1.2.3: another version may give other rows")


def read_image(written: str) -> str:
    """Returns the whole name of an image.

    Raises:
        ValueError: it is none, or names no exact version.
    """
    if not _IMAGE.fullmatch(written) or written.endswith(":latest"):
        raise ValueError("write an image with its exact version, such as `airbyte/source-faker:7.2.1`, or with its digest")
    first, slash, _ = written.partition("/")
    if not slash:
        return f"docker.io/library/{written}"
    return written if "." in first or ":" in first or first == "localhost" else f"docker.io/{written}"
