"""A head that came before means the same again, whatever came between; what is remembered is bounded and dies with its keys."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from ingest.clients.address import Proxies, parse_networks
from ingest.http import heads
from ingest.limits.guard import Guard
from shared.project.model import Key, Project, Site
from tests.unit.ingest.test_ways import ENDING, KEY, LAST, PROJECT, TRACK, WHOLE, request, squeeze
from tests.unit.ingest.wires import PEER, Edge, Wire, answers_of, edge, settled

KNOWN = request("/v1/track", TRACK, KEY)
PAGE = request("/v1/track", TRACK.replace(b"Sold", b"Page"), KEY)


async def learn(wire: Wire) -> None:
    """The first request of a connection is read with its guard, the second by the parser alone; the third is known."""
    for _ in range(3):
        wire.send(KNOWN)
        await settled()


async def both_ways(segments: Sequence[bytes | None], project: Project = PROJECT) -> bytes:
    found = []
    for quick_bytes in (0, 65536):
        async with edge(project, quick_bytes=quick_bytes) as running:
            wire = running.connect()
            await learn(wire)
            for segment in segments:
                wire.send(segment)
                await settled()
            wire.send(LAST)
            await settled()
            found.append((answers_of(wire), running.broker.ids(), running.counts, running.server.bounds.body_bytes))
    assert found[1] == found[0]
    return found[0][0]


@pytest.mark.parametrize("data", [*WHOLE, *ENDING], ids=map(str, range(len(WHOLE) + len(ENDING))))
async def test_a_request_that_came_before_is_answered_as_the_first_was(data: bytes) -> None:
    await both_ways([data, data, data, KNOWN])


@pytest.mark.parametrize("seed", range(20))
async def test_known_heads_between_pieces_of_others_are_answered_alike_both_ways(seed: int) -> None:
    chance = random.Random(seed)
    segments: list[bytes | None] = []
    for _ in range(6):
        first, second = chance.choice([KNOWN, PAGE, *WHOLE]), chance.choice([KNOWN, PAGE])
        cut = chance.randrange(1, len(second))
        segments += chance.choice(
            [[first], [first + second[:cut], second[cut:]], [second[:cut], second[cut:] + first], [KNOWN, PAGE]]
        )
    await both_ways(segments)


async def test_a_known_head_inside_of_another_request_is_no_request() -> None:
    head, _, body = KNOWN.partition(b"\r\n\r\n")
    line = head.split(b"\r\n")[0]
    for outer in (
        request("/v1/track", KNOWN, KEY)[: -len(KNOWN)],  # it is a body
        line + b"\r\nX: y\r\n",  # its first line is a header
        line + b"\r\nX: ",  # or the value of one
        KNOWN + line + b"\r\nX: ",
        b"\r\n",
        KNOWN + b"\r\n",
    ):
        await both_ways([outer, KNOWN, KNOWN])
    assert heads.END not in head
    assert len(body) == len(TRACK)


async def test_a_body_of_a_known_head_is_judged_anew() -> None:
    for body in (
        b"x" * len(TRACK),
        squeeze(b"{}").ljust(len(TRACK), b"\0"),
        b'{"event":"Sold","writeKey":"strict","a":"aa"}',
        b'{"event":"\xff","userId":"uuuuu","messageId":"m"}'[: len(TRACK)],
        TRACK[:-1].replace(b"Sold", b"\xe2\x82\xacx") + b"}",
    ):
        assert len(body) == len(TRACK), body
        await both_ways([KNOWN[: -len(TRACK)] + body])


async def test_a_new_revision_of_the_project_forgets_what_old_keys_opened() -> None:
    async with edge(PROJECT) as running:
        wire = running.connect()
        await learn(wire)
        running.intake.use_project(Project(sites={"shop": Site(keys=[Key(id="other")])}))
        wire.send(KNOWN)
        await settled()
        assert b"HTTP/1.1 401" in answers_of(wire)


async def test_heads_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MAX_BYTES", 10_000)
    async with edge(PROJECT) as running:
        wire = running.connect()
        await learn(wire)
        for number in range(20):
            wire.send(request("/v1/track", TRACK, KEY, f"X-Number: {number}"))
            await settled()
        for other in ("X-Write-Key: nobody", "X: y", KEY + "\r\nX-Long: " + "y" * 3000):
            wire.send(request("/v1/track", TRACK, other))
            await settled()
            assert not _knows(running, request("/v1/track", TRACK, other))
        assert 0 < len(_known(running)) <= 10
        assert 0 < running.server.quick.heads.bytes <= 10_000


async def test_behind_a_proxy_the_host_is_that_of_each_request() -> None:
    async with edge(PROJECT) as running:
        running.intake.proxies = Proxies(parse_networks([PEER[0]], "proxies"))
        wire = running.connect()
        data = request("/v1/track", TRACK, "X-Forwarded-Host: shop.example.com")
        for _ in range(4):
            wire.send(data)
            await settled()
        assert answers_of(wire).count(b"HTTP/1.1 200 OK") == 4


def _known(running: Edge) -> dict[bytes, heads.Head]:
    return running.server.quick.heads.known


def _knows(running: Edge, data: bytes) -> bool:
    return data.partition(heads.END)[0] in _known(running)


async def test_large_requests_are_answered_alike_both_ways_and_what_follows_them_is_counted() -> None:
    events = b",".join(b'{"type":"page","userId":"u","messageId":"%d","text":"%b"}' % (n, b"x" * 400) for n in range(100))
    large = request("/v1/batch", b'{"batch":[' + events + b"]}", KEY)
    follows = request("/v1/track", TRACK, KEY, "X: " + "y" * 6000)
    one_site = Project(sites={"shop": Site(keys=[Key(id="web")])})
    segments = [large, large, large[:5000], large[5000:], large + KNOWN, large + follows[:5000], follows[5000:], large]
    await both_ways(segments, one_site)
    guard = Guard(max_connections=10, max_per_address=10, max_sockets=1)
    async with edge(one_site, guard=guard) as running:
        wire = running.connect()
        await learn(wire)
        wire.send(large + follows[:5000])
        await settled()
        assert 4000 < guard.head_bytes <= 5000 + len(large) - len(events)
        wire.send(follows[5000:])
        await settled()
        assert guard.head_bytes == 0
        assert answers_of(wire).count(b"HTTP/1.1 200 OK") == 5
