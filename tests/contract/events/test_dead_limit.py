"""The limit of dead letters on the event way: what was answered when it is reached is not sent again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from loader.watch.limit import Limit, TooManyDeadError
from shared.project.model import DeadLimit
from tests.contract.events.conftest import SUBJECTS
from tests.contract.events.test_sending import World, events, ids
from tests.support.nats import NatsServer, nats_server
from tests.support.receiver import OK, Behaviour, Request

pytestmark = [pytest.mark.timeout(120), pytest.mark.parametrize("type_name", sorted(SUBJECTS))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One broker for all scenarios."""
    with nats_server(Path(tmp_path_factory.mktemp("limit")) / "nats", sync="2m") as running:
        yield running


def limit() -> Limit:
    return Limit(DeadLimit(events=10, ratio=0.5))


def refused(request: Request) -> Behaviour:
    """Refuses every event but one in four, whose answers come late."""
    return Behaviour(400) if int(request.ids[0][1:]) % 4 else Behaviour(seconds=0.2)


async def test_calls_under_way_when_the_limit_is_reached_are_answered_and_noted(server: NatsServer, type_name: str) -> None:
    async with World(server, type_name, calls_at_once=4) as world:
        sending = world.sending
        world.receiver.behave = refused
        await sending.put(1, events(0, 40, users=40))
        for _ in range(2):  # a person resumes it, and nothing was mended
            sending.limit = limit()
            with pytest.raises(TooManyDeadError, match="the limit is 50%"):
                await sending.live()
        letters = [str(letter.message_id) for letter in await sending.letters()]
        assert 0 < len(letters) < 20  # of two windows
        world.receiver.behave = lambda _: OK
        sending.limit = limit()
        await sending.live()
        assert Counter(world.receiver.ids) + Counter(letters) == ids(40)
        counts = (await sending.account()).counts
        assert (counts.live, counts.delivered, sum(counts.dead.values())) == (40, 40 - len(letters), len(letters))


async def test_what_waits_for_another_try_when_the_limit_is_reached_is_sent_once_later(
    server: NatsServer, type_name: str
) -> None:
    async with World(server, type_name, calls_at_once=4) as world:
        sending = world.sending
        fails = {"m0", "m1", "m2"}
        world.receiver.behave = lambda request: Behaviour(500 if fails & {*request.ids} else 400)
        await sending.put(1, events(0, 40, users=8))
        sending.limit = limit()
        with pytest.raises(TooManyDeadError):
            await sending.live()
        letters = [str(letter.message_id) for letter in await sending.letters()]
        world.receiver.behave = lambda _: OK
        await sending.live()
        assert Counter(world.receiver.ids) + Counter(letters) == ids(40)


async def test_letters_of_a_replay_that_die_again_do_not_count(server: NatsServer, type_name: str) -> None:
    async with World(server, type_name) as world:
        sending = world.sending
        sending.limit = limit()
        world.receiver.behave = lambda _: Behaviour(400)
        await sending.put(1, events(0, 30), origins=[f"live:7:{number}" for number in range(30)])
        await sending.put(2, events(30, 5))
        await sending.live()
        assert len(await sending.letters()) == 35
