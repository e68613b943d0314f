"""Singer taps: published Python packages of the specification that Meltano keeps.

    shop:
      type: singer
      package: meltanolabs-tap-postgres
      version: 0.10.0
      program: tap-postgres
      config: {sqlalchemy_url: "${SHOP_URL}"}

A tap runs in an environment of its own (`connector_runner/programs/packages.py`). The specification: https://hub.meltano.com/singer/spec.

Traps: a tap has one state for all streams, and no word for the end of a stream, so all are complete when it ends with code 0 after it
announced each; it has no check and no kinds of errors, so all of them may pass; a state may tell it to go on in the middle of a table that
is read in full.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from connector_runner.contract import Environment, Source
from connector_runner.programs.options import Packaged, check_version


class OPTIONS(Packaged, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a Singer tap."""

    package: Annotated[str, Meta(min_length=1, description="the package on PyPI, such as `meltanolabs-tap-postgres`")]
    version: Annotated[str, Meta(min_length=1, description="its exact version")]
    program: Annotated[
        str | None, Meta(description="the command that the package brings, where it is not named as the package")
    ] = None
    properties: Annotated[
        bool, Meta(description="the tap takes its catalogue with `--properties`, as in the first years, and not with `--catalog`")
    ] = False
    config: Annotated[
        dict[str, Any],
        Meta(description="the options that the tap itself takes; its own page lists them", extra={"secret": True}),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_version(self.version)


async def open_source(name: str, options: OPTIONS, environment: Environment) -> Source:
    """Opens a tap; installs nothing before its first call."""
    from connector_runner.programs.running import Package
    from connector_runner.sources.singer.source import SingerSource

    launcher = Package(options.package, options.version, environment, program=options.program or "", recipe=options.recipe())
    return SingerSource(
        name,
        launcher,
        options.config,
        catalog_option="--properties" if options.properties else "--catalog",
        limits=options.limits(),
        environment=environment,
    )
