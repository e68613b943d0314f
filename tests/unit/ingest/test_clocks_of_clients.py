"""By how much a client's clock is off: known on every path where it says when it sent, and left alone beyond the site's bound."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ingest.contract import Parsed
from ingest.intake.intake import Intake
from ingest.protocols import segment
from shared.project.model import Site
from shared.reading.units import Duration
from tests.unit.ingest.desks import CountingDesk, post

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
KEY = {"x-write-key": "web"}
PAGE = '{"type":"page","userId":"u"}'


def skew_of(path: str, sent_at: datetime | str, largest: float = 86_400) -> tuple[float | None, int]:
    """Returns the seconds that a clock is behind, and how many requests were counted as not corrected."""
    text = sent_at if isinstance(sent_at, str) else sent_at.isoformat()
    body = (
        f'{{"batch":[{PAGE}],"sentAt":"{text}"}}' if path in ("/v1/batch", "/v1/import") else f'{PAGE[:-1]},"sentAt":"{text}"}}'
    )
    parsed = segment.parse(post(path, body, headers=KEY), CountingDesk())
    assert isinstance(parsed, Parsed)
    counted: Counter[str] = Counter()
    intake = SimpleNamespace(
        sites={"shop": SimpleNamespace(site=Site(max_clock_skew=Duration(largest)))},
        telemetry=SimpleNamespace(count=lambda name, **_: counted.update([name]), show=lambda *_, **__: None),
    )
    skew = Intake._skew(cast("Any", intake), parsed, int(NOW.timestamp() * 1_000_000))
    return None if skew is None else skew / 1_000_000, counted["ingest_skew_ignored_total"]


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/import", "/v1/page", "/v1/track"])
def test_every_path_corrects_clocks_where_the_time_of_sending_is_there(path: str) -> None:
    assert skew_of(path, NOW - timedelta(hours=3)) == (3 * 3600, 0)
    assert skew_of(path, NOW + timedelta(minutes=5)) == (-300, 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_clock_beyond_the_bound_of_its_site_is_left_alone_and_counted(sign: int) -> None:
    within, beyond = sign * timedelta(seconds=60), sign * timedelta(seconds=60.001)
    assert skew_of("/v1/import", NOW + within, 60) == (-sign * 60, 0)
    assert skew_of("/v1/import", NOW + beyond, 60) == (None, 1)
    assert skew_of("/v1/import", NOW + sign * timedelta(seconds=1), 0) == (None, 1)


def test_a_time_that_is_none_is_counted() -> None:
    assert skew_of("/v1/import", "yesterday") == (None, 1)
