"""Dead letters: bounded messages, whatever they hold."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from shared.events.dead import BATCH_BYTES, LETTER_BYTES, VERSION, DeadLetter, bury, decode_dead
from shared.events.frame import RequestContext


class Broker:
    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.ids: list[str | None] = []

    async def publish(
        self, subject: str, payload: bytes, *, msg_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        assert subject == "dead.ingest.shop"
        self.payloads.append(payload)
        self.ids.append(msg_id)


def letter(number: int, request: RequestContext | None, body: bytes = b"{}") -> DeadLetter:
    return DeadLetter(
        stage="ingest", site="shop", reason="missing_id", detail="", body=body, at=0.0, origin=f"o:{number}", request=request
    )


async def test_a_request_is_written_once_for_all_letters_of_a_message() -> None:
    requests = [RequestContext(number, "segment", "web", defaults=b"x" * 20_000) for number in range(2)]
    letters = [letter(number, requests[number % 2]) for number in range(150)] + [letter(150, None)]
    broker = Broker()
    await bury(broker, "ingest", "shop", letters, "id")
    (payload,) = broker.payloads
    assert len(payload) < 2 * 20_000 + 151 * LETTER_BYTES
    assert decode_dead(payload) == letters


async def test_messages_are_bounded_by_what_letters_and_their_requests_hold() -> None:
    letters = [letter(n, RequestContext(n, "segment", "web", defaults=b"x" * 100_000), b"y" * 100_000) for n in range(9)]
    broker = Broker()
    await bury(broker, "ingest", "shop", letters, "id")
    assert max(map(len, broker.payloads)) <= BATCH_BYTES + 1000
    assert [each for payload in broker.payloads for each in decode_dead(payload)] == letters
    assert len(set(broker.ids)) == len(broker.ids)


def test_messages_of_the_first_version_are_read_and_those_of_a_newer_one_refused() -> None:
    letters = [letter(n, RequestContext(n, "segment", "web")) for n in range(2)]
    assert decode_dead(msgspec.msgpack.encode([1, letters])) == letters
    with pytest.raises(msgspec.MsgspecError, match="newer"):
        decode_dead(msgspec.msgpack.encode([VERSION + 1, letters]))
