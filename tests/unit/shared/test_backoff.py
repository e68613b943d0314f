"""Back-off: waits grow to a limit and begin again after a success; a server may say how long to wait."""

from __future__ import annotations

import pytest

from shared.backoff import Backoff
from shared.reading.wait import retry_after


def test_each_wait_is_twice_the_one_before_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert [backoff.next() for _ in range(2)] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("2.0", 2.0), (" 0 ", 0.0), ("9" * 50, 999_999_999.0), ("-1", None), ("soon", None), ("", None), ("1e9", None)],
)
def test_a_server_says_how_long_to_wait_in_seconds_also_with_a_fraction(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}, 0.0) == seconds
