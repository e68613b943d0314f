"""Counters of a test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Counters that begin at zero."""
    opened = Telemetry("router-test", ServiceSettings())
    yield opened
    opened.shutdown()
