"""What the answer about a stream says of the node that gave it."""

from __future__ import annotations

import json
from typing import Any

import nats.errors
import pytest

from shared.jetstream import topology
from shared.jetstream.watch.node import answers
from shared.jetstream.watch.watchdog import Suspicion

RECENT, LONG_AGO = 500_000_000, 6_000_000_000


class Node:
    """A client whose server answers so; an exception is raised instead."""

    def __init__(self, answer: dict[str, Any] | bytes | Exception) -> None:
        self._answer = answer
        self.asked: list[str] = []

    async def request(self, subject: str, timeout: float) -> Any:  # as the client has it
        self.asked.append(subject)
        if isinstance(self._answer, Exception):
            raise self._answer
        self.data = self._answer if isinstance(self._answer, bytes) else json.dumps(self._answer).encode()
        return self


def led(*copies: tuple[int, bool]) -> dict[str, Any]:
    return {
        "cluster": {
            "leader": "n1",
            "replicas": [{"name": "n", "active": active, "offline": offline} for active, offline in copies],
        }
    }


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (led((RECENT, False), (RECENT, False)), True),
        (led((RECENT, False), (LONG_AGO, False)), True),
        (led((LONG_AGO, False), (LONG_AGO, False)), False),
        (led((RECENT, True), (LONG_AGO, False)), False),
        (led(), True),
        ({"config": {}}, True),
        ({"error": {"code": 404, "err_code": 10059}}, True),
        ({"error": {"code": 503, "err_code": 10008}}, False),
        (b"", False),
        (b"no json", False),
        (nats.errors.NoRespondersError(), False),
        (nats.errors.TimeoutError(), False),
        (OSError(), False),
    ],
)
async def test_a_node_answers_if_the_leader_of_the_stream_does_and_hears_from_most_copies(
    answer: dict[str, Any] | bytes | Exception, expected: bool
) -> None:
    assert await answers(Node(answer), [topology.EVENTS]) is expected  # type: ignore[arg-type]


async def test_it_asks_for_the_streams_that_did_not_answer() -> None:
    suspicion = Suspicion()
    for subject in ("events.shop.0", "$KV.leases.router.shop", "deliver.c.1f"):
        suspicion.note_subject(subject)
    assert suspicion.noted.is_set()
    node = Node({"config": {}})
    assert await answers(node, suspicion.taken())  # type: ignore[arg-type]
    assert sorted(node.asked) == [f"$JS.API.STREAM.INFO.{stream}" for stream in ("DELIVER", "EVENTS", "KV_leases")]
    assert not suspicion.noted.is_set()
    assert suspicion.taken() == {topology.EVENTS}
