"""Dead letters as events: whose they are, and that no letter makes an event that a broker refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from router.problems.letters import frames_of, letter_event
from shared.events.dead import DETAIL_CHARACTERS, DeadLetter, bury, decode_dead
from shared.events.frame import encode_frame
from shared.syncs.naming import known_as

BROKER_TAKES = 1024 * 1024


def letter(**more: Any) -> DeadLetter:
    return DeadLetter(
        **{
            "stage": "ingest",
            "site": "shop",
            "reason": "missing_id",
            "detail": "why",
            "body": b"{}",
            "at": 1.0,
            "origin": "r:0",
            **more,
        }
    )


@pytest.mark.parametrize(
    ("body", "user", "anonymous"),
    [
        (b'{"type":"page","userId":"jane","anonymousId":"d1"}', "jane", "d1"),
        (b'{"user_id":"jane"}', "jane", None),
        (b'{"userId":7,"anonymousId":""}', None, "site:shop"),
        (rb'{"userId":"\ud800"}', r"\ud800", None),
        (b'{"userId":"jane", oops', "jane", None),
        (b'{"userId":null, oops', None, "site:shop"),
        (b"[" * 100_000, None, "site:shop"),
        (b"\xff\x00 jane", None, "site:shop"),
    ],
)
def test_a_letter_of_the_edge_has_the_person_of_its_event_so_that_its_row_is_found_when_she_is_forgotten(
    body: bytes, user: str | None, anonymous: str | None
) -> None:
    head, event = letter_event(letter(body=body), letter_id="1.0", store="s")
    assert (head.user_id, head.anonymous_id) == (user, anonymous)
    told = msgspec.json.decode(event)
    assert (told.get("userId"), told.get("anonymousId")) == (user, anonymous)


def test_a_letter_of_a_sync_has_its_sync_and_no_connection() -> None:
    _, event = letter_event(letter(connection=known_as("orders")), letter_id="1.0", store="s")
    properties = msgspec.json.decode(event)["properties"]
    assert (properties["sync"], "connection" in properties, "replay" in properties) == ("orders", False, False)


@pytest.mark.parametrize(
    "more",
    [
        {"body": b"\x00" * 2_000_000},
        {"detail": "\x01" * 2_000_000},
        {"body": b'{"userId":"' + b"u" * 2_000_000 + b'"}'},
        {"message_id": "m" * 2_000_000, "type": "t" * 2_000_000, "event": "e" * 2_000_000, "user_id": "u" * 2_000_000},
    ],
)
def test_no_letter_is_too_large_to_become_an_event(more: dict[str, Any]) -> None:
    frames = list(frames_of([letter(**more)] * 3, [], store="s", seq=1, now=1.0))
    assert sum(len(frame) for frame in frames) == 3
    assert max(len(encode_frame(frame)) for frame in frames) < BROKER_TAKES


async def test_a_detail_is_kept_up_to_a_bound() -> None:
    class Publisher:
        stored: bytes = b""

        async def publish(
            self, subject: str, payload: bytes, *, msg_id: str | None = None, headers: Mapping[str, str] | None = None
        ) -> None:
            self.stored = payload

    publisher = Publisher()
    await bury(publisher, "loader", "c", [letter(detail="é" * 1_000_000), letter(detail="short")], "id")
    cut, short = decode_dead(publisher.stored)
    assert (len(cut.detail), cut.detail[-2:], short.detail) == (DETAIL_CHARACTERS, "é…", "short")
