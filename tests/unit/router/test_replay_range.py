"""An id of a replay stands for one range."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import pytest

from router.replay.range import Bound, note_range, range_of
from shared.errors import ConfigError, Conflict
from shared.jetstream.kv import Bucket, Entry

CONDITIONS = {"field": "received_at", "gt": datetime(2026, 9, 1, tzinfo=UTC)}


class Values:
    """A bucket in memory; `first` is another process's write that comes between our look and our write."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.first: bytes | None = None

    async def get(self, key: str) -> Entry | None:
        return Entry(key, self.stored[key], 1) if key in self.stored else None

    async def put(self, key: str, value: bytes, *, revision: int | None = None) -> int:
        assert revision == 0
        if self.first is not None:
            self.stored[key], self.first = self.first, None
        if key in self.stored:
            raise Conflict("the key exists")
        self.stored[key] = value
        return 1


async def note(
    values: Values, start: Bound = 2, end: Bound = None, connection: str | None = "one", where: object = None, last: int = 9
) -> int:
    return (
        await note_range(
            cast("Bucket", values),
            "r1",
            range_of(site="shop", start=start, end=end, connection=connection, where=where, last=last),
        )
    ).last


async def test_the_same_range_goes_on_to_the_frame_that_was_the_newest_at_first() -> None:
    values = Values()
    assert await note(values, where=CONDITIONS, last=9) == 9
    assert await note(values, where=CONDITIONS, last=20) == 9


async def test_another_range_is_refused_with_what_the_id_stands_for() -> None:
    values = Values()
    await note(values, 2, 3)
    for start, end, connection, where in (
        (1, 3, "one", None),
        (2, 4, "one", None),
        (2, 3, None, None),
        (2, 3, "one", CONDITIONS),
    ):
        with pytest.raises(
            ConfigError, match=r"replay 'r1' is of site shop, 2 to 3, to one; give the same range, or choose another id"
        ):
            await note(values, start, end, connection, where)


async def test_of_two_that_begin_at_once_the_second_is_held_against_the_first() -> None:
    first, second = Values(), Values()
    await note(first, datetime(2026, 9, 1, tzinfo=UTC))
    (second.first,) = first.stored.values()
    with pytest.raises(ConfigError, match=r"2026-09-01T00:00:00\+00:00 to the newest"):
        await note(second, 7)
