"""A delivery beyond the site's limit on its whole way through the edge: acknowledged and kept, while other protocols refuse it."""

from __future__ import annotations

import gzip

import pytest

from shared.events.dead import decode_dead
from shared.project.model import Key, Project, Site, SiteLimits
from shared.project.webhooks import Webhook
from shared.reading.units import ByteSize
from tests.unit.ingest.wires import edge

LARGE = b'{"a":"%b"}' % (b"x" * 5000)
PROJECT = Project(
    sites={"shop": Site(keys=[Key(id="web")], limits=SiteLimits(request_bytes=ByteSize(2000), event_bytes=ByteSize(1000)))},
    webhooks={"hook": Webhook(site="shop", type="open")},
)


def post(path: str, body: bytes, *lines: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *lines]
    return "".join(f"{line}\r\n" for line in head).encode() + b"\r\n" + body


@pytest.mark.parametrize("quick_bytes", [0, 65536])
@pytest.mark.parametrize("squeezed", [False, True])
async def test_a_large_delivery_is_answered_200_and_its_beginning_is_a_dead_letter(quick_bytes: int, squeezed: bool) -> None:
    body, lines = (gzip.compress(LARGE), ["Content-Encoding: gzip"]) if squeezed else (LARGE, [])
    async with edge(PROJECT, quick_bytes=quick_bytes) as running:
        answer = await running.exchange([post("/webhooks/hook", body, *lines), None])
        ((subject, payload),) = running.broker.stored
        refused = await running.exchange([post("/v1/track?writeKey=web", body, *lines), None])
        unknown = await running.exchange([post("/webhooks/nobody", body, *lines), None])
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b'"rejected":1' in answer
    assert subject.startswith("dead.")
    ((letter),) = decode_dead(payload)
    assert (letter.reason, letter.body) == ("too_large", LARGE)
    assert refused.startswith(b"HTTP/1.1 413")
    assert unknown.startswith((b"HTTP/1.1 404", b"HTTP/1.1 413"))
