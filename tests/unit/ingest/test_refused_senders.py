"""A refusal is counted for the site and the key it concerns, wherever the key stood and whatever was wrong."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ingest.clients.address import Proxies
from ingest.clients.keys import KeyIndex
from ingest.contract import Credential
from ingest.http.pipeline import Pipeline
from ingest.http.routes import Routes
from ingest.http.sockets import _Session
from ingest.intake.intake import Intake, Sender
from ingest.limits.refusals import Refusals
from ingest.protocols import segment, websocket
from shared.errors import Transient
from tests.unit.ingest.desks import CountingDesk, project

PAGE = '{"type":"page","userId":"u","properties":{"text":"%s"}}' % ("x" * 600)
LIMITS = project(event_bytes=500, events_per_request=2)


class Desk(CountingDesk):
    """As much of an intake as refusals need; it stores nothing."""

    def __init__(self) -> None:
        super().__init__(LIMITS)
        self.keys = KeyIndex(LIMITS)
        self.proxies = Proxies()
        self.sites: dict[str, Any] = {}
        self.telemetry = cast(
            "Any", SimpleNamespace(count=self._count, counter=lambda *_, **__: lambda amount: None, tracing=None)
        )
        self.refusals = Refusals(self.telemetry)
        self.counted: Counter[tuple[str, str, str]] = Counter()

    def _count(self, name: str, amount: float = 1, **labels: str) -> None:
        if name == "ingest_requests_refused_total":
            self.counted[labels["code"], labels["site"], labels["key"]] += int(amount)

    async def accept(self, *_: object) -> object:
        raise Transient("the broker is away")


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/page", PAGE, "event_too_large"),
        ("/v1/batch", '{"batch":[1,2,3]}', "too_many_events"),
        ("/v1/batch", f'{{"batch":[1],"context":{PAGE}}}', "context_too_large"),
        ("/v1/batch", '{"batch":[1],"context":5,"integrations":[1]', "invalid_json"),
    ],
)
def test_a_request_is_counted_for_the_key_in_its_header_or_body(path: str, body: str, code: str, inside: bool) -> None:
    desk = Desk()
    pipeline = Pipeline(cast("Intake", desk), Routes([segment]))
    match = pipeline.find("POST", path)
    assert match is not None
    headers = {} if inside else {"x-write-key": "web"}
    sent = (f'{{"writeKey":"web",{body[1:]}' if inside else body).encode()
    answered = pipeline.begin(match, pipeline.ask(match, "POST", "", headers, sent, None), None, lambda _: None)
    assert answered is not None
    # a key inside what cannot be read is not known
    assert desk.counted == {(code, "", "") if inside and code == "invalid_json" else (code, "shop", "web"): 1}


@pytest.mark.parametrize(
    ("message", "code", "key"),
    [
        ({"id": 1, "batch": [1, 2, 3]}, "too_many_events", "web"),
        ({"id": 1, "batch": [1, 2, 3], "key": "api:s3cret"}, "too_many_events", "api"),
        ({"id": 1, "batch": [1], "key": "api:wrong"}, "wrong_secret", "api"),
        ({"event": 1}, "missing_id", "web"),
        ({"id": 1, "batch": 5}, "invalid_message", "web"),
        ({"key": 5}, "invalid_message", "web"),
        ({"id": 1, "event": {"type": "page", "userId": "u"}}, "unavailable", "web"),
    ],
)
async def test_a_message_is_counted_for_its_key_or_that_of_its_connection(message: dict[str, Any], code: str, key: str) -> None:
    async def send(*_: object, **__: object) -> None:
        """The client reads nothing."""

    desk = Desk()
    session = _Session(
        cast("Intake", desk),
        cast("Any", websocket),
        cast("Any", SimpleNamespace(send_str=send, close=send)),
        Sender(None, {}),
        [Credential("query", "web")],
        8,
        cast("Any", None),
        cast("Any", None),
    )
    parsed = websocket.read(json.dumps(message), desk, session._known)
    if code == "unavailable":
        await session._accept(False, 1, cast("Any", parsed).parsed)
    else:
        await session._take(json.dumps(message), cast("Any", None))
    assert desk.counted == {(code, "shop", key): 1}
