"""Connectors of the Airbyte protocol: published Python packages, low-code manifests, and container images.

    crm:
      type: airbyte
      package: airbyte-source-faker
      version: 7.2.1
      config: {count: 1000}

A package runs in an environment of its own (`connector_runner/programs/packages.py`), a manifest in that of `airbyte-cdk`, an image by podman or
docker (`connector_runner/programs/images.py`). The protocol:
https://docs.airbyte.com/platform/understanding-airbyte/airbyte-protocol.

Traps: exit code 0 does not mean that all streams were read, so each selected stream must say that it is complete; `check` fails
with exit code 0; `STREAM_STATUS COMPLETE` comes before the stream's last state; a manifest may hold the names of Python classes,
which would run as code in the connector's process.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from connector_runner.contract import Environment, Source
from connector_runner.programs.options import Packaged, check_version, read_image

CDK = "7.39.1"
"""The version of `airbyte-cdk` that runs manifests, where none is named."""


class OPTIONS(Packaged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a connector of the Airbyte protocol."""

    package: Annotated[str | None, Meta(description="the package on PyPI, such as `airbyte-source-faker`")] = None
    version: Annotated[
        str | None, Meta(description=f"its exact version; of a manifest, that of `airbyte-cdk` (default {CDK})")
    ] = None
    program: Annotated[
        str | None, Meta(description="the command that the package brings, where it is not named as the package")
    ] = None
    manifest: Annotated[
        dict[str, Any] | str | None,
        Meta(
            description="a low-code manifest: the YAML itself as a mapping, or the path of its file beside the project file",
            extra={"text_goes_to": "manifest"},
        ),
    ] = None
    image: Annotated[
        str | None, Meta(description="a container image with its exact version, such as `airbyte/source-faker:7.2.1`")
    ] = None
    engine: Annotated[
        Literal["podman", "docker"] | None, Meta(description="what runs the image; podman where it is, else docker")
    ] = None
    network: Annotated[str, Meta(description="network of the image, as the engine names it; empty: its usual one")] = ""
    config: Annotated[
        dict[str, Any],
        Meta(
            description="the options that the connector itself takes; `penstock connector spec` lists them",
            extra={"secret": True},
        ),
    ] = field(default_factory=dict)
    verify_counts: Annotated[
        bool, Meta(description="fail a read where the connector's own count of rows is another than the rows that came")
    ] = True

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.package, self.manifest, self.image)) != 1:
            raise ValueError("write one of `package`, `manifest` and `image`")
        if self.image is None and (self.engine is not None or self.network):
            raise ValueError("`engine` and `network` belong to an `image`")
        if self.image is not None:
            if self.version is not None:
                raise ValueError("the version of an image stands in its name")
            if self.build or self.requires or self.python:
                raise ValueError("`build`, `requires` and `python` belong to a `package` or a `manifest`")
            read_image(self.image)
        if self.package is not None and self.version is None:
            raise ValueError("write `version`: a connector of another version may give other rows")
        if self.version is not None:
            check_version(self.version)


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:
    """Opens a connector; installs nothing before its first call.

    Raises:
        SetupError: the manifest cannot be read or is none.
    """
    from connector_runner.programs.images import Image
    from connector_runner.programs.running import Launcher, Package
    from connector_runner.sources.airbyte.manifest import read_manifest
    from connector_runner.sources.airbyte.source import AirbyteSource

    manifest = None if options.manifest is None else read_manifest(name, options.manifest)
    launcher: Launcher
    if manifest is not None:
        launcher = Package(
            "airbyte-cdk", options.version or CDK, environment, program="source-declarative-manifest", recipe=options.recipe()
        )
    elif options.image is not None:
        image = read_image(options.image)
        launcher = Image(image, options.limits(), environment, engine=options.engine, network=options.network)
    else:
        package, version = options.package or "", options.version or ""
        launcher = Package(package, version, environment, program=options.program or "", recipe=options.recipe())
    return AirbyteSource(
        name,
        launcher,
        options.config,
        manifest=manifest,
        limits=options.limits(),
        verify_counts=options.verify_counts,
        environment=environment,
    )
