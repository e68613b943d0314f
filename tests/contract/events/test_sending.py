"""Event-wise destinations, each in every scenario: sets of ids, order by user, retries, rates, and a kill at every step."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.contract.events.conftest import SUBJECTS
from tests.support.nats import NatsServer, nats_server
from tests.support.receiver import OK, Behaviour, Receiver, Request
from tests.support.sending import Sending

pytestmark = [pytest.mark.timeout(170), pytest.mark.parametrize("type_name", sorted(SUBJECTS))]
NAMES = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One broker for all scenarios; each connection has a queue of its own."""
    with nats_server(Path(tmp_path_factory.mktemp("events")) / "nats", sync="2m") as running:
        yield running


def events(first: int, count: int, users: int = 3) -> list[dict[str, Any]]:
    return [{"messageId": f"m{n}", "type": "track", "userId": f"u{n % users}", "n": n} for n in range(first, first + count)]


def ids(count: int, *without: int) -> Counter[str]:
    return Counter(f"m{n}" for n in range(count) if n not in without)


def in_order(receiver: Receiver) -> bool:
    """Whether the events of each user came in their order; repeats aside."""
    seen: dict[str, int] = {}
    last: dict[str, int] = {}
    for event in (event for request in receiver.taken for event in request.events):
        if event["messageId"] not in seen:
            seen[event["messageId"]] = event["n"]
            if last.get(event["userId"], -1) > event["n"]:
                return False
            last[event["userId"]] = event["n"]
    return True


class World:
    """A receiver, a broker and a connection between them."""

    def __init__(self, server: NatsServer, type_name: str, **options: Any) -> None:
        self._server = server
        self._type = type_name
        self._options = options
        self.receiver = Receiver()

    async def __aenter__(self) -> World:
        await self.receiver.start()
        self._connecting = connect(self._server.url, "test", patience_seconds=60)
        self.broker = await self._connecting.__aenter__()
        await topology.ensure(self.broker, topology.TopologySettings())
        self.sending = self.another()
        return self

    def another(self) -> Sending:
        """Returns a connection of its own to the same receiver."""
        document = SUBJECTS[self._type](self.receiver.url) | self._options
        return Sending(self.broker, f"c{next(NAMES)}", document)

    async def __aexit__(self, *exc: Any) -> None:
        await self._connecting.__aexit__(*exc)
        await self.receiver.stop()


async def test_what_is_sent_is_what_is_delivered_dead_and_dropped(server: NatsServer, type_name: str) -> None:
    async with World(server, type_name) as world:
        world.receiver.behave = lambda request: Behaviour(400) if request.ids == ["m4"] else OK
        for seq in (1, 2, 3):
            await world.sending.put(seq, events(20 * (seq - 1), 20))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(60, 4)
        assert [letter.message_id for letter in await world.sending.letters()] == ["m4"]
        assert in_order(world.receiver)
        counts = (await world.sending.account()).counts
        assert (counts.live, counts.delivered, counts.dead) == (60, 59, {"rejected_by_destination": 1})


async def test_a_restart_sends_nothing_again(server: NatsServer, type_name: str) -> None:
    async with World(server, type_name) as world:
        await world.sending.put(1, events(0, 10))
        await world.sending.live()
        await world.sending.put(2, events(10, 10))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(20)


@pytest.mark.parametrize("status", [500, 502, 408, 503])
async def test_a_call_that_fails_holds_up_the_later_events_of_its_user_alone(
    server: NatsServer, type_name: str, status: int
) -> None:
    tries: Counter[str] = Counter()

    def behave(request: Request) -> Behaviour:
        (id_,) = request.ids
        tries[id_] += 1
        others = len(world.receiver.taken)
        return Behaviour(status) if id_ == "m0" and (tries[id_] < 3 or others < 20) else OK

    async with World(server, type_name) as world:
        world.receiver.behave = behave
        await world.sending.put(1, events(0, 30))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(30)
        assert in_order(world.receiver)
        taken = [event for request in world.receiver.taken for event in request.events]
        late = taken.index(next(event for event in taken if event["messageId"] == "m0"))
        assert {event["userId"] for event in taken[:late]} == {"u1", "u2"}
        assert late == 20
        assert len({request.key for request in world.receiver.requests if request.ids == ["m0"]}) == 1


@pytest.mark.parametrize("status", [401, 407])
async def test_an_expired_token_makes_no_dead_letters_and_every_event_arrives_when_it_is_renewed(
    server: NatsServer, type_name: str, status: int
) -> None:
    denied = 0

    def behave(_: Request) -> Behaviour:
        nonlocal denied
        denied += 1
        return Behaviour(status, body=b"token expired") if denied <= 4 else OK

    async with World(server, type_name, calls_at_once=3) as world:
        world.receiver.behave = behave
        await world.sending.put(1, events(0, 60, users=20))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(60)
        assert in_order(world.receiver)
        assert await world.sending.letters() == []


async def test_an_event_that_is_not_let_in_while_others_are_is_a_dead_letter_in_which_no_token_stands(
    server: NatsServer, type_name: str
) -> None:
    token = "token-of-the-tests"

    def behave(request: Request) -> Behaviour:
        return Behaviour(403, body=b"x" * 190 + token.encode()) if request.ids == ["m4"] else OK

    async with World(server, type_name, headers={"Authorization": f"Bearer {token}"}) as world:
        world.receiver.behave = behave
        await world.sending.put(1, events(0, 30))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(30, 4)
        (letter,) = await world.sending.letters()
        assert (letter.message_id, letter.reason) == ("m4", "rejected_by_destination")
        assert "while other calls are let in" in letter.detail
        assert "token" not in letter.detail


@pytest.mark.parametrize("what", ["cut", "hang", "huge"])
async def test_a_call_without_a_sane_answer_is_bounded_and_tried_again(server: NatsServer, type_name: str, what: str) -> None:
    tries: Counter[str] = Counter()

    def behave(request: Request) -> Behaviour:
        (id_,) = request.ids
        tries[id_] += 1
        return Behaviour(500 if what == "huge" else 200, what=what) if id_ == "m5" and tries[id_] == 1 else OK

    async with World(server, type_name, timeout=3 if what == "hang" else 60) as world:
        world.receiver.behave = behave
        await world.sending.put(1, events(0, 12))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(12)
        assert in_order(world.receiver)
        assert await world.sending.letters() == []


async def test_an_answer_that_got_lost_repeats_the_call_with_its_key(server: NatsServer, type_name: str) -> None:
    tries: Counter[str] = Counter()

    def behave(request: Request) -> Behaviour:
        tries[request.key] += 1
        return Behaviour(what="lose") if tries[request.key] == 1 and request.ids == ["m3"] else OK

    async with World(server, type_name) as world:
        world.receiver.behave = behave
        await world.sending.put(1, events(0, 6))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(6) + Counter(["m3"])
        assert max(tries.values()) == 2
        assert (await world.sending.account()).counts.delivered == 6


@pytest.mark.parametrize("status", [429, 503])
async def test_all_calls_pause_as_long_as_the_destination_says(server: NatsServer, type_name: str, status: int) -> None:
    times: list[float] = []
    refused: list[int] = []

    def behave(request: Request) -> Behaviour:
        import time

        times.append(time.monotonic())
        if len(times) <= 2:
            refused.append(len(times))
            return Behaviour(status, {"Retry-After": "1"})
        return OK

    async with World(server, type_name, calls_at_once=2) as world:
        world.receiver.behave = behave
        await world.sending.put(1, events(0, 20))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(20)
        assert in_order(world.receiver)
        assert times[2] - times[0] >= 0.95


async def test_an_event_on_which_the_destination_fails_for_good_is_given_up(server: NatsServer, type_name: str) -> None:
    async with World(server, type_name, max_age=0.1) as world:
        world.receiver.behave = lambda request: Behaviour(500) if request.ids == ["m1"] else OK
        await world.sending.put(1, events(0, 9))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(9, 1)
        (letter,) = await world.sending.letters()
        assert (letter.message_id, letter.reason) == ("m1", "gave_up")
        assert in_order(world.receiver)


async def test_redirects_are_not_followed(server: NatsServer, type_name: str) -> None:
    async with World(server, type_name) as world:
        world.receiver.behave = lambda _: Behaviour(302, {"Location": world.receiver.url + "/elsewhere"})
        await world.sending.put(1, events(0, 2))
        await world.sending.live()
        assert all(request.path == "/in" for request in world.receiver.requests)
        assert len(await world.sending.letters()) == 2


async def test_the_rate_and_the_calls_at_once_are_kept(server: NatsServer, type_name: str) -> None:
    async with World(server, type_name, rate=50, calls_at_once=3) as world:
        import time

        world.receiver.behave = lambda _: Behaviour(seconds=0.1)
        await world.sending.put(1, events(0, 40, users=40))
        began = time.monotonic()
        await world.sending.live()
        assert time.monotonic() - began >= 39 / 50 - 0.05
        assert world.receiver.most_at_once <= 3
        assert Counter(world.receiver.ids) == ids(40)


async def test_without_order_an_event_that_waits_holds_up_no_other(server: NatsServer, type_name: str) -> None:
    tries: Counter[str] = Counter()

    def behave(request: Request) -> Behaviour:
        (id_,) = request.ids
        tries[id_] += 1
        others = len(world.receiver.taken)
        return Behaviour(500) if id_ == "m0" and (tries[id_] < 3 or others < 19) else OK

    async with World(server, type_name, ordered=False) as world:
        world.receiver.behave = behave
        await world.sending.put(1, events(0, 20, users=1))
        await world.sending.live()
        assert Counter(world.receiver.ids) == ids(20)
        assert world.receiver.ids[-1] == "m0"
        assert (await world.sending.account()).counts.delivered == 20


@pytest.mark.parametrize("batch", [1, 4])
async def test_killed_at_any_step_nothing_is_lost_and_repeats_bear_their_key(
    server: NatsServer, type_name: str, batch: int
) -> None:
    async with World(server, type_name, calls_at_once=2, batch_events=batch) as world:
        for kill_at in itertools.count(1):
            sending = world.another()
            world.receiver.requests.clear()
            world.receiver.taken.clear()
            tries: Counter[str] = Counter()

            def behave(request: Request, tries: Counter[str] = tries) -> Behaviour:
                tries[request.key] += 1
                if "m1" in request.ids:
                    return Behaviour(422)
                return Behaviour(500) if "m2" in request.ids and tries[request.key] == 1 else OK

            world.receiver.behave = behave
            for seq in (1, 2):
                await sending.put(seq, events(3 * (seq - 1), 3, users=2))
            steps = await sending.live(kill_at)
            ended = len(steps) < kill_at
            if not ended:
                await sending.live()
            where = f"killed {steps[-1]}, step {kill_at}"
            assert set(world.receiver.ids) == set(ids(6, 1)), where
            assert [letter.message_id for letter in await sending.letters()] == ["m1"], where
            counts = (await sending.account()).counts
            assert (counts.live, counts.delivered, sum(counts.dead.values())) == (6, 5, 1), where
            assert await sending.waiting() == 0, where
            if batch == 1:
                keys = {(request.key, tuple(request.ids)) for request in world.receiver.requests}
                assert len(keys) == len({key for key, _ in keys}) == 6, where
            if ended:
                break


async def test_killed_while_a_call_waits_again_in_halves_nothing_is_lost(server: NatsServer, type_name: str) -> None:
    async with World(server, type_name, calls_at_once=1, batch_events=4) as world:
        for kill_at in itertools.count(1):
            sending = world.another()
            world.receiver.requests.clear()
            world.receiver.taken.clear()
            failed: list[str] = []

            def behave(request: Request, failed: list[str] = failed) -> Behaviour:
                if "m2" in request.ids and len(failed) < 2:
                    failed.append(request.key)
                    return Behaviour(500)
                return OK

            world.receiver.behave = behave
            await sending.put(1, events(0, 4, users=4))
            steps = await sending.live(kill_at)
            ended = len(steps) < kill_at
            if not ended:
                await sending.live()
            where = f"killed {steps[-1]}, step {kill_at}"
            assert set(world.receiver.ids) == set(ids(4)), where
            counts = (await sending.account()).counts
            assert (counts.live, counts.delivered) == (4, 4), where
            assert await sending.waiting() == 0, where
            if ended:
                assert steps.count("before a message to RETRY") == 3, steps
                break
