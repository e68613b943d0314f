"""Where frames go while the broker is away: not beyond their deadline, and into the journal when there is one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ingest.intake.outlet import Outlet
from ingest.journal.records import read_records
from ingest.journal.spool import Spool, SpoolFull, open_spool
from shared.errors import NotConnected, Permanent, QueueFull
from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry


class Publisher:
    """Publishes, or fails as it is told."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.tried: list[tuple[str, float]] = []
        self.taken: list[str] = []

    async def publish(
        self, subject: str, payload: bytes, *, msg_id: str | None = None, deadline_seconds: float = 10.0, **_: object
    ) -> None:
        self.tried.append((msg_id or "", deadline_seconds))
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.taken.append(msg_id or "")


def outlet(publisher: Publisher, spool: Spool | None) -> Outlet:
    telemetry = Telemetry("test", ServiceSettings())
    telemetry.shutdown()
    return Outlet(publisher, spool, telemetry, deadline_seconds=8.0, spool_after_seconds=1.0)


async def test_the_time_a_frame_has_waited_counts_against_its_deadline() -> None:
    publisher = Publisher()
    out = outlet(publisher, None)
    await out.send_frame("events.shop.0", b"x", "a", 1, 3.0)
    assert publisher.tried == [("a", 5.0)]
    with pytest.raises(NotConnected):
        await out.send_frame("events.shop.0", b"x", "b", 1, 8.5)
    assert publisher.taken == ["a"]
    assert len(publisher.tried) == 1, "what its sender is told was not stored must not have been sent"


@pytest.mark.parametrize("failure", [NotConnected("away"), QueueFull("full")])
async def test_without_a_journal_the_failure_reaches_the_sender(failure: Exception) -> None:
    publisher = Publisher()
    publisher.failure = failure
    with pytest.raises(type(failure)):
        await outlet(publisher, None).send_frame("events.shop.0", b"x", "a", 1)


async def test_with_a_journal_the_frame_is_kept_under_its_id_and_the_next_go_behind_it_untried(
    tmp_path: Path,
) -> None:
    publisher = Publisher()
    publisher.failure = NotConnected("away")
    async with open_spool(tmp_path, 2**20) as spool:
        out = outlet(publisher, spool)
        await out.send_frame("events.shop.0", b"1", "a", 1)
        await out.send_frame("events.shop.0", b"2", "b", 1)
        await out.publish("dead.ingest.shop", b"3", msg_id="c")
        assert publisher.tried == [("a", 1.0)]
        (path,) = tmp_path.glob("*.journal")
        assert [record.msg_id for record in read_records(path.read_bytes()).records] == ["a", "b", "c"]
        publisher.failure = None
        task = asyncio.create_task(spool.empty(out.publish_stored))
        while spool.backlog:
            await asyncio.sleep(0.005)
        await out.send_frame("events.shop.0", b"4", "d", 1)
        task.cancel()
    assert [taken for taken in publisher.taken if taken != "c"] == ["a", "b", "d"]
    assert publisher.taken.index("c") < publisher.taken.index("d")


async def test_a_full_stream_is_the_senders_failure_at_once_and_never_fills_the_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher()
    publisher.failure = QueueFull("EVENTS is full")
    async with open_spool(tmp_path, 2**20) as spool:
        out = outlet(publisher, spool)
        for _ in range(2):
            with pytest.raises(QueueFull, match="EVENTS is full"):
                await out.send_frame("events.shop.0", b"1", "a", 1)
        assert not spool.backlog
        assert out.full == {"EVENTS": "EVENTS is full"}
        assert caplog.text.count("the stream is full") == 1
        publisher.failure = None
        await out.send_frame("events.shop.0", b"1", "b", 1)
        assert out.full == {}


async def test_while_the_broker_refuses_what_is_in_the_journal_new_frames_do_not_go_behind_it(tmp_path: Path) -> None:
    publisher = Publisher()
    publisher.failure = NotConnected("away")
    async with open_spool(tmp_path, 2**20) as spool:
        out = outlet(publisher, spool)
        await out.send_frame("events.shop.0", b"1", "a", 1)
        publisher.failure = QueueFull("full")
        task = asyncio.create_task(spool.empty(out.publish_stored))
        while not out.full:
            await asyncio.sleep(0.005)
        with pytest.raises(QueueFull):
            await out.send_frame("events.shop.0", b"2", "b", 1)
        publisher.failure = NotConnected("away again")
        while out.full:
            await asyncio.sleep(0.005)
        await out.send_frame("events.shop.0", b"3", "c", 1)
        publisher.failure = None
        while spool.backlog:
            await asyncio.sleep(0.005)
        task.cancel()
    assert publisher.taken == ["a", "c"]


async def test_a_full_journal_is_the_senders_failure(tmp_path: Path) -> None:
    publisher = Publisher()
    publisher.failure = NotConnected("away")
    async with open_spool(tmp_path, 100) as spool:
        with pytest.raises(SpoolFull):
            await outlet(publisher, spool).send_frame("events.shop.0", b"x" * 200, "a", 1)
        assert not spool.backlog


async def test_what_the_broker_can_never_take_does_not_go_into_the_journal(tmp_path: Path) -> None:
    publisher = Publisher()
    publisher.failure = Permanent("too large")
    async with open_spool(tmp_path, 2**20) as spool:
        with pytest.raises(Permanent):
            await outlet(publisher, spool).send_frame("events.shop.0", b"x", "a", 1)
        assert not spool.backlog
