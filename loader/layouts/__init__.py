"""The layouts a connection can choose; each is one file with one class that keeps `contract.Layout`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loader.layouts.contract import Layout
from loader.layouts.passthrough import Passthrough
from loader.layouts.segment import Segment
from loader.layouts.single_table import SingleTable
from loader.names import Namer

LAYOUTS: Mapping[str, Callable[[Namer], Layout]] = {
    "segment": Segment,
    "single_table": SingleTable,
    "passthrough": Passthrough,
}
"""By the name people write in the project file."""
