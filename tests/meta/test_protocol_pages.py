"""The messages that docs/protocols/ shows are those of the wire: what a client sends is understood, what the server says is what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ingest.contract import Accepted, Credential, HttpRequest, Parsed, SocketMessage, SocketProblem
from ingest.protocols import segment, websocket
from tests.unit.ingest.desks import CountingDesk

PROTOCOLS = Path(__file__).parents[2] / "docs" / "protocols"
KEY = (Credential("header", "web"),)
CREDIT = 64


def shown(page: str) -> list[str]:
    """Returns the JSON that a page shows."""
    text = (PROTOCOLS / page).read_text(encoding="utf-8")
    return [match.strip() for match in re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def message(text: str) -> Any:
    return json.loads(text)


def test_what_a_websocket_client_sends_is_taken_and_acknowledged_as_the_page_shows() -> None:
    blocks = [message(text) for text in shown("websocket.md")]
    batch = next(block for block in blocks if "batch" in block)
    taken = websocket.read(json.dumps(batch), CountingDesk(), KEY)
    assert isinstance(taken, SocketMessage)
    assert taken.parsed is not None
    ack = websocket.write_ack(False, taken.id, Accepted(len(taken.parsed.heads), taken.parsed.rejects), CREDIT)
    assert message(str(ack)) == next(block for block in blocks if "ack" in block)
    single = next(block for block in blocks if "event" in block)
    assert isinstance(websocket.read(json.dumps(single), CountingDesk(), KEY), SocketMessage)
    assert message(str(websocket.write_hello(False, CREDIT))) == next(block for block in blocks if "hello" in block)


def test_an_error_of_the_websocket_page_has_the_form_of_the_wire() -> None:
    error = next(block for block in map(message, shown("websocket.md")) if "error" in block)
    problem = SocketProblem(error["error"], error["message"], error["id"], error["retry_after"])
    assert message(str(websocket.write_problem(False, problem))) == error


def test_the_answer_with_rejects_is_the_one_of_segments_page() -> None:
    (answer,) = [message(text) for text in shown("segment.md")]
    body = json.dumps({"batch": [{"type": "track", "event": "a", "userId": "u"}, {"type": "purchase", "userId": "u"}]}).encode()
    request = HttpRequest("POST", "/v1/batch", {}, {}, {"x-write-key": "web"}, body)
    parsed = segment.parse(request, CountingDesk())
    assert isinstance(parsed, Parsed)
    given = message(segment.reply(request, Accepted(len(parsed.heads), parsed.rejects)).body.decode())
    detail, start = given["rejects"][0].pop("detail"), answer["rejects"][0].pop("detail")
    assert detail.startswith(start.removesuffix("…"))
    assert given == answer
