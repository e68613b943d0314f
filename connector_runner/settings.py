"""What an operator sets of the runner, prefix `PENSTOCK_CONNECTOR_`. What a user sets stands in the project file."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, field

from shared.jetstream.lease import TTL_SECONDS
from shared.reading.units import Duration

PREFIX = "PENSTOCK_CONNECTOR_"


class ConnectorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the runner."""

    lease: Annotated[Duration, Meta(description="how long a dead runner keeps its feeds and syncs; at least 2s")] = field(
        default_factory=lambda: Duration(TTL_SECONDS)
    )
    cache_dir: Annotated[
        str, Meta(description="folder of installed connectors; default: `.cache/penstock/connectors` in the home of its user")
    ] = ""
