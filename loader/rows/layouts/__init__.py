"""The layouts a connection can choose; each is one file with one class that keeps `contract.Layout`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loader.rows.layouts.contract import Layout
from loader.rows.layouts.jitsu_legacy import JitsuLegacy
from loader.rows.layouts.passthrough import Passthrough
from loader.rows.layouts.segment import Segment
from loader.rows.layouts.single_table import SingleTable
from loader.rows.layouts.snowplow import Snowplow
from loader.rows.layouts.webhook import Webhook
from loader.types.names import Namer

LAYOUTS: Mapping[str, Callable[[Namer], Layout]] = {
    "segment": Segment,
    "single_table": SingleTable,
    "passthrough": Passthrough,
    "jitsu_legacy": JitsuLegacy,
    "snowplow": Snowplow,
    "webhook": Webhook,
}
"""By their name in the project file."""
