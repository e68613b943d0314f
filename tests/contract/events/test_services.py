"""Services that take events, through the core: each against a server that behaves as the service's pages say."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loader.delivery.sending import pace
from shared.jetstream import topology
from shared.jetstream.broker import connect
from tests.support.nats import NatsServer, nats_server
from tests.support.receiver import Behaviour, Receiver
from tests.support.sending import Sending
from tests.support.services import SECRET, SERVICES, WRONG, Service, event

pytestmark = pytest.mark.parametrize("type_name", sorted(SERVICES))
NAMES = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One broker for all scenarios; each connection has a queue of its own."""
    with nats_server(Path(tmp_path_factory.mktemp("services")) / "nats", sync="2m") as running:
        yield running


def document(type_name: str, **more: Any) -> dict[str, Any]:
    return {"type": type_name, **SERVICES[type_name].document, **more}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a destination that fails be tried again soon; how long it really is left alone, other tests hold."""
    monkeypatch.setattr(pace, "PAUSE_SECONDS", (0.05, 0.2))


async def test_each_event_arrives_or_is_a_letter_whatever_the_service_answers(server: NatsServer, type_name: str) -> None:
    rules = SERVICES[type_name]
    everything = [event(number, rules) for number in range(24)]
    service = Service(rules, [rules.broken, rules.throttled, Behaviour(what="lose"), Behaviour(what="cut")], bad=["mid-7"])
    async with Receiver(service.behave) as receiver, connect(server.url, "test", patience_seconds=60) as broker:
        await topology.ensure(broker, topology.TopologySettings())
        own = document(type_name, endpoint=receiver.url.removesuffix("/in"), retry_delay=0.05)
        sending = Sending(broker, f"s{next(NAMES)}", own)
        for seq in (1, 2):
            await sending.put(seq, everything[12 * (seq - 1) : 12 * seq])
        await sending.live()
        assert set(service.taken) == {f"mid-{number}" for number in range(24)} - {"mid-7"}, await sending.letters()
        (letter,) = await sending.letters()
        assert (letter.message_id, letter.reason) == ("mid-7", "rejected_by_destination")
        counts = (await sending.account()).counts
        assert (counts.live, counts.delivered, counts.dead) == (24, 23, {"rejected_by_destination": 1})
        assert 413 not in service.refused
        last: dict[int, int] = {}
        for number in dict.fromkeys(int(mark.removeprefix("mid-")) for mark in service.taken):
            assert last.get(number % 3, -1) < number, "the events of a user came in another order"
            last[number % 3] = number


async def test_a_wrong_credential_holds_all_events_and_makes_no_letter(server: NatsServer, type_name: str) -> None:
    rules = SERVICES[type_name]
    service = Service(rules)
    wrong = {key: value.replace(SECRET, WRONG) if isinstance(value, str) else value for key, value in rules.document.items()}
    async with Receiver(service.behave) as receiver, connect(server.url, "test", patience_seconds=60) as broker:
        await topology.ensure(broker, topology.TopologySettings())
        own = {"type": type_name, **wrong, "endpoint": receiver.url.removesuffix("/in"), "retry_delay": 0.05}
        sending = Sending(broker, f"s{next(NAMES)}", own)
        await sending.put(1, [event(number, rules) for number in range(6)])
        living = asyncio.create_task(sending.live())
        await receiver.until(lambda: len(receiver.requests) >= 2)
        assert service.taken == []
        service.strict = False  # somebody mended it there
        await living
        assert Counter(service.taken) == Counter(f"mid-{number}" for number in range(6))
        assert await sending.letters() == []
