"""Dead letters of the edge judged again: by their own protocol, with what the request said beside the body."""

from __future__ import annotations

import msgspec
import pytest

from ingest.contract import Parsed, SocketMessage
from ingest.protocols import segment, websocket
from penstock.control.letters.forms import as_line
from penstock.control.letters.judged import Refusal, judge_again
from shared.events.dead import DeadLetter
from shared.events.frame import RequestContext
from shared.project.model import Project, Site
from tests.unit.ingest.desks import CountingDesk, get, post

LENIENT = Project(sites={"shop": Site(require_id=False)})
KEY = {"x-write-key": "web"}


def dead_letter(parsed: Parsed, protocol: str) -> DeadLetter:
    (reject,) = parsed.rejects
    return DeadLetter(
        stage="ingest", site="shop", reason=reject.reason, detail=reject.detail, body=reject.body, at=1.0, origin="r:0",
        request=RequestContext(1, protocol, "web"), form=parsed.form,
    )  # fmt: skip


def parsed(route: str, body: str) -> Parsed:
    result = segment.parse(post(route, body, headers=KEY), CountingDesk())
    assert isinstance(result, Parsed)
    return result


@pytest.mark.parametrize(("path", "kind"), [("track", "track"), ("t", "track"), ("page", "page"), ("s", "screen")])
def test_an_event_whose_path_gave_its_type_is_that_event_again(path: str, kind: str) -> None:
    letter = dead_letter(parsed(f"/v1/{path}", '{"event":"Sold","price":1.10}'), "segment")
    again = judge_again(letter, LENIENT)
    assert not isinstance(again, Refusal)
    assert (again[0].type, again[0].event, again[1]) == (kind, "Sold", letter.body)
    line = as_line("1.0", letter, events=True)
    assert line == f'{{"event":"Sold","price":1.10,"type":"{kind}"}}'
    batch = parsed("/v1/batch", f'{{"batch":[{line}]}}')
    assert [reject.reason for reject in batch.rejects] == ["missing_id"], (
        "what is exported is a whole event: only the id is missing"
    )


def test_a_pixel_is_judged_again_by_the_type_of_its_path() -> None:
    query = {"writeKey": "web", "event": "Seen"}
    result = segment.parse(get(segment.PIXEL, params={"type": "track"}, query=query), CountingDesk())
    assert isinstance(result, Parsed)
    again = judge_again(dead_letter(result, "segment"), LENIENT)
    assert not isinstance(again, Refusal)
    assert again[0].type == "track"


def test_a_packed_event_keeps_its_bytes_and_is_read_as_what_it_is() -> None:
    event = {"type": "page", "properties": {"n": 1}}
    message = msgspec.msgpack.encode({"id": 1, "key": "web", "batch": [event]})
    read = websocket.read(message, CountingDesk(), ())
    assert isinstance(read, SocketMessage)
    assert read.parsed is not None
    letter = dead_letter(read.parsed, "websocket")
    assert letter.body == msgspec.msgpack.encode(event)
    again = judge_again(letter, LENIENT)
    assert not isinstance(again, Refusal)
    assert msgspec.json.decode(again[1]) == event
    assert as_line("1.0", letter, events=True) == msgspec.json.encode(event).decode()


def test_a_letter_that_stays_says_why_by_the_rules_of_today() -> None:
    again = judge_again(dead_letter(parsed("/v1/track", '{"event":"Sold"}'), "segment"), Project())
    assert isinstance(again, Refusal)
    assert (again.reason, again.detail) == ("missing_id", "neither `userId` nor `anonymousId` is given")
