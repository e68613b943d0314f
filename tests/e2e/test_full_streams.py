"""Streams that are full or nearly so, on a real broker: what is shed and what is not, and what the edge says."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator

import pytest
from nats.js.errors import NotFoundError

from penstock.control.letters.letters import Filter, find, remove_all
from router.forwarding.state import Mark, SiteState, StateKeeper, shed_before
from router.room.dead import DeadRoom
from router.room.shed import PART, Shedding
from shared.errors import QueueFull
from shared.events.dead import DeadLetter, bury, decode_dead
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.hold_back import TTL_SECONDS, Holds, hold_back
from shared.jetstream.identity import incarnation_of
from shared.project.model import Project, Site
from shared.reading.units import Duration
from shared.settings import ServiceSettings
from shared.streams.dead_log import LOST_PART, LostLetters
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

LIMIT = 1024 * 1024
FRAME = 20_000


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    opened = Telemetry("test", ServiceSettings())
    yield opened
    opened.shutdown()


async def limit_events(broker: Broker) -> str:
    """Makes EVENTS small; returns its incarnation."""
    info = await broker.js.stream_info(topology.EVENTS)
    info.config.max_bytes = LIMIT
    await broker.js.update_stream(info.config)
    return incarnation_of(info)


async def fill(broker: Broker, until: float, site: str = "shop") -> int:
    """Publishes frames until EVENTS is so full; returns the last sequence."""
    while True:
        seq = (await broker.publisher.publish(topology.events_subject(site), os.urandom(FRAME))).seq
        if (await broker.js.stream_info(topology.EVENTS)).state.bytes >= until * LIMIT:
            return seq


async def kept(broker: Broker) -> tuple[int, float]:
    """Returns the first sequence and how full EVENTS is."""
    state = (await broker.js.stream_info(topology.EVENTS)).state
    return state.first_seq, state.bytes / LIMIT


class Keeper:
    """The router's state of a site."""

    def __init__(self, broker: Broker, site: str, incarnation: str) -> None:
        self._keeper = StateKeeper(broker, site)
        self._incarnation = incarnation

    async def at(self, position: int, **behind: int) -> None:
        marks = {name: Mark(seq=seq, at_seconds=1.0) for name, seq in behind.items()}
        await self._keeper.save(SiteState(incarnation=self._incarnation, position=position, at_seconds=1.0, behind=marks))


def project(dedupe_seconds: float = 0.0, **more: Site) -> Project:
    return Project(sites={"shop": Site(dedupe_window=Duration(dedupe_seconds)), **more})


async def test_frames_that_every_reader_passed_go_when_room_is_short_and_no_others(
    broker: Broker, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    incarnation, health = await limit_events(broker), Health()
    shop = Keeper(broker, "shop", incarnation)
    quiet = (await broker.publisher.publish(topology.events_subject("quiet"), b"one")).seq
    gone = (await broker.publisher.publish(topology.events_subject("gone"), b"one")).seq

    async def shed(of: Project) -> int:
        return await Shedding(broker, of, Holds(broker), health, telemetry).run_once()

    await fill(broker, 0.5)
    assert await shed(project()) == 0, "there is room"
    last = await fill(broker, 0.92)

    # nobody has routed the sites
    assert await shed(project()) == 0
    assert "no router has begun" in health.warnings[PART]
    assert "EVENTS cannot be shed, a reader holds it back" in caplog.text

    # a site is level, one that is quiet is done, one that the project lost has a state: only the replay holds back
    await Keeper(broker, "quiet", incarnation).at(quiet)
    await Keeper(broker, "gone", incarnation).at(gone - 1)
    await shop.at(last)
    async with hold_back(broker, lambda: 5):
        await shed(project(quiet=Site(dedupe_window=Duration(0))))
        assert (await kept(broker))[0] == 5

    # a connection that is behind holds back, and is named
    await shop.at(last, late=9)
    await shed(project(quiet=Site(dedupe_window=Duration(0))))
    assert (await kept(broker))[0] == 9
    assert await shed(project(quiet=Site(dedupe_window=Duration(0)))) == 0
    assert "connection late" in health.warnings[PART]

    # when it is level, as much goes as is needed and no more
    await shop.at(last)
    removed = await shed(project(quiet=Site(dedupe_window=Duration(0))))
    first, ratio = await kept(broker)
    assert 0.6 < ratio <= 0.72
    assert PART not in health.warnings
    assert telemetry.value("events_shed_frames_total") == first - 1
    assert removed == first - 9
    assert await shed_before(broker, incarnation) == first
    assert await shed(project(quiet=Site(dedupe_window=Duration(0)))) == 0


async def test_frames_in_a_window_of_message_ids_stay_until_the_stream_is_almost_full(
    broker: Broker, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    incarnation = await limit_events(broker)
    shop = Keeper(broker, "shop", incarnation)
    shedding = Shedding(broker, project(3600.0), Holds(broker), Health(), telemetry)
    await shop.at(await fill(broker, 0.85))
    assert await shedding.run_once() == 0
    await shop.at(await fill(broker, 0.92))
    assert await shedding.run_once() > 0
    assert "recognises no repeats of older events" in caplog.text


async def test_a_reader_that_died_holds_nothing_back_although_the_broker_keeps_its_word(broker: Broker) -> None:
    now = 0.0
    holds = Holds(broker, lambda: now)
    async with hold_back(broker, lambda: 7):
        assert await holds.first() == 7
        now = TTL_SECONDS + 1
        assert await holds.first() is None
    assert await holds.first() is None


async def test_a_full_stream_refuses_at_once_and_says_so(broker: Broker) -> None:
    await limit_events(broker)
    with pytest.raises(QueueFull, match="takes no more messages: maximum bytes exceeded"):
        await fill(broker, 2.0)


async def test_a_site_that_fills_the_dead_letters_evicts_its_own_and_no_others(
    broker: Broker, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    info = await broker.js.stream_info(topology.DEAD)
    info.config.max_bytes = LIMIT
    await broker.js.update_stream(info.config)

    def letters(site: str, count: int) -> list[DeadLetter]:
        return [
            DeadLetter(stage="ingest", site=site, reason="r", detail="", body=os.urandom(1000), at=1.0, origin=f"o{number}")
            for number in range(count)
        ]

    await bury(broker.publisher, "loader", "warehouse", letters("quiet", 3), "a")
    await bury(broker.publisher, "ingest", "quiet", letters("quiet", 5), "b")
    for number in range(40):
        await bury(broker.publisher, "ingest", "loud", letters("loud", 20), f"c{number}")
    # beyond the limit nothing of others goes: the stream refuses, and the edge counts what is lost
    lost: list[DeadLetter] = []
    for number in range(20):
        await bury(broker.publisher, "ingest", "loud", letters("loud", 20), f"d{number}", on_full=lost.extend)
    assert len(lost) % 20 == 0
    assert lost
    with pytest.raises(QueueFull):
        await bury(broker.publisher, "loader", "warehouse", letters("loud", 20), "e")
    held = 8 + 40 * 20 + 20 * 20 - len(lost)

    health = Health()
    evicted = await DeadRoom(broker, LostLetters(telemetry, health)).run_once()
    state = (await broker.js.stream_info(topology.DEAD, subjects_filter=">")).state
    assert 0.6 < state.bytes / LIMIT < 0.72
    assert evicted == telemetry.value("dead_letters_evicted_total", stage="ingest", source="loud") > 0
    left = Counter[str]()
    for seq in range(state.first_seq, state.last_seq + 1):
        with contextlib.suppress(NotFoundError):
            left.update(letter.site for letter in decode_dead((await broker.js.get_msg(topology.DEAD, seq)).data or b""))
    assert left == {"quiet": 8, "loud": held - 8 - evicted}
    assert "ingest loud" in health.warnings[LOST_PART]
    assert "lost for want of room" in caplog.text
    assert await DeadRoom(broker, LostLetters(telemetry, health)).run_once() == 0


async def test_dead_letters_are_purged_all_at_once_or_by_filter_and_those_that_came_later_stay(broker: Broker) -> None:
    def letters(reason: str) -> list[DeadLetter]:
        return [DeadLetter(stage="ingest", site="shop", reason=reason, detail="", body=b"{}", at=1.0, origin="o")]

    async def reasons() -> list[str]:
        return [stored.letters[index].reason async for stored in find(broker, Filter()) for index in stored.matching]

    for number in range(150):
        await bury(broker.publisher, "ingest", "shop", letters("odd" if number % 2 else "even"), f"a{number}")
    done: list[int] = []
    await remove_all(broker, Filter(reason="odd"), 148, done.append)
    assert done[-1] == 74
    assert await reasons() == ["even"] * 75 + ["odd"]
    await remove_all(broker, Filter(), 149, done.append)
    assert await reasons() == ["odd"]
