"""Dead letters: bounded messages, whatever they hold."""

from __future__ import annotations

from shared.dead import BATCH_BYTES, DeadLetter, bury, decode_dead
from shared.frame import RequestContext


class Broker:
    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.ids: list[str | None] = []

    async def publish(self, subject: str, payload: bytes, *, msg_id: str | None = None) -> None:
        assert subject == "dead.ingest.shop"
        self.payloads.append(payload)
        self.ids.append(msg_id)


async def test_what_a_request_holds_counts_with_every_letter_that_carries_it() -> None:
    request = RequestContext(1, "segment", "web", defaults=b"x" * 200_000)
    letters = [
        DeadLetter(
            stage="ingest", site="shop", reason="missing_id", detail="", body=b"%d" % n, at=0.0, origin=f"o:{n}", request=request
        )
        for n in range(50)
    ]
    broker = Broker()
    await bury(broker, "ingest", "shop", letters, "id")
    assert max(map(len, broker.payloads)) <= BATCH_BYTES + 1000
    assert [letter.body for payload in broker.payloads for letter in decode_dead(payload)] == [letter.body for letter in letters]
    assert len(set(broker.ids)) == len(broker.ids)
