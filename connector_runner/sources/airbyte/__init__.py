"""Connectors of the Airbyte protocol: published Python packages, and low-code manifests.

    crm:
      type: airbyte
      package: airbyte-source-faker
      version: 7.2.1
      config: {count: 1000}

A package runs in an environment of its own (`connector_runner/programs/packages.py`), a manifest in that of `airbyte-cdk`. The protocol:
https://docs.airbyte.com/platform/understanding-airbyte/airbyte-protocol.

Traps: exit code 0 does not mean that all streams were read, so each selected stream must say that it is complete; `check` fails
with exit code 0; `STREAM_STATUS COMPLETE` comes before the stream's last state; a manifest may hold the names of Python classes,
which would run as code in the connector's process.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from connector_runner.contract import Environment, Source
from connector_runner.programs.program import Limits
from connector_runner.sources.airbyte.manifest import read_manifest
from connector_runner.sources.airbyte.source import AirbyteSource, Launch
from shared.reading.mask import Mask
from shared.reading.units import ByteSize, Duration

CDK = "7.39.1"
"""The version of `airbyte-cdk` that runs manifests, where none is named."""


class OPTIONS(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a connector of the Airbyte protocol."""

    package: Annotated[str | None, Meta(description="the package on PyPI, such as `airbyte-source-faker`")] = None
    version: Annotated[
        str | None, Meta(description=f"its exact version; of a manifest, that of `airbyte-cdk` (default {CDK})")
    ] = None
    program: Annotated[
        str | None, Meta(description="the command that the package brings, where it is not named as the package")
    ] = None
    build: Annotated[list[str], Meta(description="packages without a wheel that uv may build, by name")] = []
    manifest: Annotated[
        dict[str, Any] | str | None,
        Meta(description="a low-code manifest: the YAML itself as a mapping, or the path of its file beside the project file"),
    ] = None
    config: Annotated[
        dict[str, Any],
        Meta(
            description="the options that the connector itself takes; `penstock connector spec` lists them",
            extra={"secret": True},
        ),
    ] = {}
    max_time: Annotated[Duration, Meta(description="longest run")] = field(default_factory=lambda: Duration(86_400))
    cpu_time: Annotated[Duration, Meta(description="most CPU time of one run")] = field(default_factory=lambda: Duration(86_400))
    stall_timeout: Annotated[Duration, Meta(description="longest silence")] = field(default_factory=lambda: Duration(3600))
    memory: Annotated[ByteSize, Meta(description="most memory of its processes together")] = field(
        default_factory=lambda: ByteSize(2 << 30)
    )
    max_line: Annotated[ByteSize, Meta(description="longest message, and so the largest row")] = field(
        default_factory=lambda: ByteSize(32 << 20)
    )

    def __post_init__(self) -> None:
        if (self.package is None) == (self.manifest is None):
            raise ValueError("write either `package` or `manifest`")
        if self.package is not None and self.version is None:
            raise ValueError("write `version`: a connector of another version may give other rows")


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:
    """Opens a connector; installs nothing before its first call.

    Raises:
        SetupError: the manifest cannot be read or is none.
    """
    limits = Limits(
        seconds=float(options.max_time),
        cpu_seconds=float(options.cpu_time),
        stall_seconds=float(options.stall_timeout),
        memory_bytes=int(options.memory),
        line_bytes=int(options.max_line),
    )
    manifest = None if options.manifest is None else read_manifest(name, options.manifest)
    launch = (
        Launch(package="airbyte-cdk", version=options.version or CDK, program="source-declarative-manifest", manifest=manifest)
        if manifest is not None
        else Launch(
            package=options.package or "",
            version=options.version or "",
            program=options.program or "",
            build=tuple(options.build),
        )
    )
    return AirbyteSource(
        name=name,
        launch=launch,
        config=options.config,
        limits=limits,
        mask=Mask([options.config]),
        environment=environment,
    )
