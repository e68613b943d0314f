"""Steps of forgetting on a real broker: notes of ended letters, and requests whose last worker died or ended together with another."""

from __future__ import annotations

import asyncio

from loader.forgetting.streams import find_letters
from shared.events.dead import DeadLetter, bury, decode_message, note_ended
from shared.forget.person import Person
from shared.forget.requests import LOADER, REQUESTS, ROUTER, PartReceipt, Request, ask, end_part, read_receipt
from shared.forget.worker import take_up
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

PERSON = Person(["jane"])


def letter(number: int, body: bytes) -> DeadLetter:
    return DeadLetter(
        stage="ingest",
        site="shop",
        reason="malformed_json",
        detail="d",
        body=body,
        at=1.0,
        origin=f"r:{number}:0",
        id=f"9.{number}",
    )


async def test_notes_of_replayed_and_purged_letters_go_too(broker: Broker) -> None:
    letters = [letter(0, b'{"userId":"jane",'), letter(1, b'{"userId":"joe",')]
    await bury(publisher=broker.publisher, stage="ingest", name="shop", letters=letters, msg_id="a")
    await note_ended(broker.publisher, topology.dead_subject("ingest", "shop"), letters, "purged", "b")
    assert await find_letters(broker, PERSON, remove=False) == 2
    assert await find_letters(broker, PERSON, remove=True) == 2
    assert await find_letters(broker, PERSON, remove=False) == 0
    state = (await broker.js.stream_info(topology.DEAD)).state
    left: list[str | None] = []
    for seq in range(state.first_seq, state.last_seq + 1):
        message = await broker.js.get_msg(topology.DEAD, seq)
        assert b"jane" not in (message.data or b"")
        found = decode_message(message.data or b"")
        left += [each.id for each in found.letters] + [each.letter.id for each in found.ended]
    assert left == ["9.1", "9.1"]


async def test_ids_are_erased_though_the_last_worker_died_before_it_erased_them(broker: Broker) -> None:
    request = Request(id="r", names=["jane"], digests=["d"], at=1.0, parts=[LOADER, ROUTER])
    await ask(broker, request)
    for part in request.parts:  # both have ended, and neither has erased the request
        await end_part(broker, request, part, PartReceipt())
    bucket = Bucket(broker, topology.FORGOTTEN_BUCKET)
    assert await bucket.get(f"{REQUESTS}r") is not None

    async def work(*_: object) -> bool:
        raise AssertionError("the part is done")

    task = asyncio.create_task(take_up(broker, "i", part=LOADER, lease_seconds=5.0, work=work))
    try:
        async with asyncio.timeout(60):
            while await bucket.get(f"{REQUESTS}r") is not None:
                await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    receipt = await read_receipt(broker, "r")
    assert receipt is not None
    assert receipt.state == "done"
