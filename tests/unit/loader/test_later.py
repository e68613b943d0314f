"""What waits in RETRY: due times, clocks that are set, and thousands of messages at once."""

from __future__ import annotations

from typing import Any, cast

from loader.contract.events import MOST_HOLD_SECONDS, SendLimits
from loader.delivery.sending.later import Later
from shared.events.headers import BITS, DUE, EPOCH, ORDER, SINCE, USERS, Place, write_place
from shared.jetstream.reader import Message

NOW = 1_800_000_000.0


class Reader:
    """As much of a reader as `Later` asks of one."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def next(self, _: float) -> Message | None:
        return self.messages.pop(0) if self.messages else None

    def take_buffered(self, most: int) -> list[Message]:
        taken, self.messages = self.messages[:most], self.messages[most:]
        return taken


class World:
    def __init__(self) -> None:
        self.wall, self.steady, self.reader = NOW, 50.0, Reader()
        self.later = Later(
            reader=cast("Any", self.reader),
            publisher=cast("Any", None),
            connection="c",
            queue="c.1",
            epoch=1,
            limits=SendLimits(),
            unreadable=cast("Any", None),
            replaced=lambda _: None,
            wall=lambda: self.wall,
            steady=lambda: self.steady,
        )

    async def stored(self, *dues: float | str, users: int = 10_000) -> None:
        """Takes messages in whose due times are so many seconds away, or a text."""
        first = len(self.later) + 1
        for seq, due in enumerate(dues, first):
            headers = {
                **write_place(Place("live", seq, 1)), BITS: "1", EPOCH: "1", ORDER: str(seq), SINCE: f"{NOW}", USERS: f"u{seq % users}",
                DUE: due if isinstance(due, str) else f"{self.wall + due:.3f}",
            }  # fmt: skip
            self.reader.messages.append(Message("", b"", headers, seq, NOW, 0))
        await self.later.take_in(0)

    def pass_(self, seconds: float, set_by: float = 0.0) -> None:
        """Lets time pass; somebody sets the clock meanwhile."""
        self.steady += seconds
        self.wall += seconds + set_by

    def due(self) -> list[int]:
        found: list[int] = []
        while (one := self.later.take_due()) is not None:
            found.append(one.seq)
        return found


async def test_a_clock_that_is_set_back_holds_nothing_up_and_one_set_forward_hurries_nothing() -> None:
    for set_by in (-86_400.0, 86_400.0):
        world = World()
        await world.stored(10.0, 30.0)
        world.pass_(9, set_by=set_by)
        assert world.due() == []
        assert world.later.next_in() <= 1.0
        world.pass_(2)
        assert world.due() == [1]
        world.pass_(20)
        assert world.due() == [2]


async def test_a_due_time_that_a_wrong_clock_wrote_is_a_day_away_at_most() -> None:
    world = World()
    await world.stored(10 * 365 * 86_400.0, "inf", "nan", -5.0)
    assert world.due() == [3, 4]
    world.pass_(MOST_HOLD_SECONDS + 1)
    assert world.due() == [1, 2]


async def test_thousands_that_are_due_at_once_go_once_each_and_in_the_order_of_each_user() -> None:
    world = World()
    await world.stored(*[10.0] * 20_000, users=7)
    world.pass_(11)
    sent: list[int] = []
    under_way = [one for _ in range(16) if (one := world.later.take_due()) is not None]
    assert len(under_way) == 7
    while under_way:
        one = under_way.pop(0)
        sent.append(one.seq)
        world.later.end(one)
        if (another := world.later.take_due()) is not None:
            under_way.append(another)
    assert sorted(sent) == [*range(1, 20_001)]
    for user in range(7):
        of_user = [seq for seq in sent if seq % 7 == user]
        assert of_user == sorted(of_user)
    assert len(world.later) == 0
