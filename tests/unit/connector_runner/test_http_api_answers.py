"""The source `http_api` and answers as they come: limits of rate, errors, formats, hostile bodies, addresses that an API leads to."""

from __future__ import annotations

import asyncio
import gzip
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from connector_runner.sources.http_api.link import _Unpacker
from shared.driving import egress
from shared.errors import NotConnected, SetupError, Transient
from tests.support.http_api import Api, api
from tests.support.sources.place import written

IDS = list(range(1, 24))
ROWS = [{"id": number} for number in IDS]
SECRET = "secret-0123456789"


async def test_waits_that_the_api_asks_for_are_kept(shop: Api) -> None:
    now = time.time()
    busy: list[dict[str, str]] = [
        {"Retry-After": "0"},
        {"Retry-After": formatdate(now - 5, usegmt=True)},
        {"X-RateLimit-Reset": str(int(now) - 1)},
        {"X-RateLimit-Reset": "0"},
        {},
    ]
    states = [429, 503, 429, 429, 429]

    def answer(_: web.Request) -> Any:
        return web.Response(status=states.pop(0), headers=busy.pop(0)) if busy else ROWS

    shop.answer = answer
    assert (await shop.one({}, retries=0)).ids() == IDS
    busy.append({"Retry-After": "4000"})
    states.append(429)
    with pytest.raises(Transient, match="wants fewer requests; it would have to wait 4000 s more, `longest_wait` is 900 s"):
        await shop.one({"columns": {"id": "integer"}}, retries=0)
    assert len(shop.requests) == 1


@pytest.mark.parametrize(
    "headers", [{"Retry-After": "0"}, {"X-RateLimit-Reset": "0"}, {"X-RateLimit-Reset": "nan"}, {"X-RateLimit-Reset": "1e-9"}]
)
async def test_an_api_that_wants_no_wait_and_no_request_is_not_asked_for_ever(shop: Api, headers: dict[str, str]) -> None:
    """Its clock may be behind ours, so that a reset is over before it is said."""
    shop.answer = lambda _: web.Response(status=429, headers=headers)
    with pytest.raises(Transient, match="wants fewer requests"):
        await asyncio.wait_for(shop.one({"columns": {"id": "integer"}}, retries=0, longest_wait=0.2), 20)
    assert len(shop.requests) < 30


async def test_a_server_that_stumbles_is_asked_again_and_one_that_lies_down_is_told(shop: Api) -> None:
    falls = [500, 502, 408]

    def answer(request: web.Request) -> Any:
        if falls and falls[0] == 0:
            falls.pop(0)
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=falls.pop(0)) if falls else ROWS

    shop.answer = answer
    assert (await shop.one({})).ids() == IDS
    falls[:] = [0, 0]
    assert (await shop.one({})).ids() == IDS
    falls[:] = [503] * 20
    with pytest.raises(Transient, match="/rows: the API answers 503"):
        await shop.one({"columns": {"id": "integer"}}, retries=2)
    assert len(shop.requests) == 3
    with pytest.raises(NotConnected, match=r"127\.0\.0\.1"):
        await shop.one({"columns": {"id": "integer"}}, base_url="http://127.0.0.1:9", retries=1)


async def test_an_answer_that_drips_is_ended_by_the_time_limit(shop: Api) -> None:
    async def answer(request: web.Request) -> Any:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    shop.answer = answer
    with pytest.raises(NotConnected, match=r"no whole answer within 0.2 s \(`timeout`\)"):
        await shop.one({"columns": {"id": "integer"}}, timeout="200ms", retries=0)


@pytest.mark.parametrize(
    ("body", "headers", "error", "words"),
    [
        (
            b"<html>please log in</html>",
            {"Content-Type": "text/html"},
            SetupError,
            "a page for people and no JSON; check `base_url`",
        ),
        (b"  <!DOCTYPE html><p>", {"Content-Type": "application/json"}, SetupError, "a page for people"),
        (b'[{"id": 1}, {"id"', {}, Transient, "is no JSON"),
        (b"", {}, Transient, "the answer is empty"),
        (b'{"items": [], "token": "abc"}', {}, SetupError, "`records`; its keys are items, token, lists are in items"),
        (b"[" * 100_000 + b"]" * 100_000, {}, Transient, "is no JSON"),
        (gzip.compress(b"[" + b" " * (80 << 20) + b"]"), {"Content-Encoding": "gzip"}, SetupError, "larger than 67108864 bytes"),
        (gzip.compress(b"[]")[:-4], {"Content-Encoding": "gzip"}, Transient, "was cut off"),
        (b"no gzip", {"Content-Encoding": "gzip"}, Transient, "cannot be unpacked"),
        (b"[]", {"Content-Encoding": "br"}, SetupError, "packed with br"),
    ],
    ids=["html", "html-as-json", "half", "empty", "object", "deep", "bomb", "cut-gzip", "bad-gzip", "brotli"],
)
async def test_hostile_answers_are_errors_that_say_what_to_do(
    shop: Api, body: bytes, headers: dict[str, str], error: type[Exception], words: str
) -> None:
    shop.answer = lambda _: web.Response(body=body, headers=headers)
    with pytest.raises(error, match=words) as failed:
        await shop.one({"columns": {"id": "integer"}}, retries=1)
    assert f'connector "shop", stream s: {shop.url}/rows: ' in str(failed.value)
    assert len(shop.requests) == (2 if error is Transient else 1)


async def test_a_page_larger_than_allowed_is_not_read_to_its_end(shop: Api) -> None:
    sent = 0

    async def answer(request: web.Request) -> Any:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(50):
            await response.write(b" " * (1 << 20))
            sent += 1
        return response

    shop.answer = answer
    with pytest.raises(SetupError, match="larger than 2097152 bytes; ask for smaller pages, or raise `max_page`"):
        await shop.one({"columns": {"id": "integer"}}, max_page="2MiB")
    assert sent < 50


async def test_rows_stay_what_the_api_wrote(shop: Api) -> None:
    lines = b'[\n {"id": 1, "n": 12345678901234567890123, "x": 1e400},\n {"id": 2, "n": 0.10000000000000000001},\r\n "alone", 5]'
    shop.answer = lambda _: web.Response(body=lines, content_type="application/json")
    found = await shop.one({})
    lines_given = [line for each in found.messages for line in written(each)]
    assert lines_given == [
        b'{"id":1,"n":12345678901234567890123,"x":1e400}', b'{"id":2,"n":0.10000000000000000001}', b'{"value":"alone"}', b'{"value":5}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "headers", "name"),
    [
        (b'[{"id": 1, "name": "a\xff"}]', {}, "a\ufffd"),
        (b'[{"id": 1, "name": "\\ud800!"}]', {}, "\ufffd!"),
        ('[{"id": 1, "name": "ä"}]'.encode("latin-1"), {"Content-Type": "application/json; charset=latin-1"}, "ä"),
        ('[{"id": 1, "name": "ä\\ud800"}]'.encode("latin-1"), {"Content-Type": "application/json; charset=latin-1"}, "ä\ufffd"),
        ('[{"id": 1, "name": "ä"}]'.encode(), {"Content-Type": "application/json; charset=idna"}, "ä"),
        ('[{"id": 1, "name": "ä"}]'.encode(), {"Content-Type": "application/json; charset=punycode"}, "ä"),
        ('\ufeff[{"id": 1, "name": "ä"}]'.encode(), {}, "ä"),
        ('[{"id": 1, "name": "ä"}]'.encode("utf-16"), {}, "ä"),
        (b'[{"id": 1, "name": "\\ud83d\\ude00"}]', {}, "😀"),
    ],
)
async def test_texts_in_any_coding(shop: Api, body: bytes, headers: dict[str, str], name: str) -> None:
    shop.answer = lambda _: web.Response(body=body, headers=headers)
    found = await shop.one({})
    assert [row["name"] for row in found.rows()] == [name]
    warned = any("no text; they are U+FFFD" in getattr(each, "text", "") for each in found.messages)
    assert warned == ("\ufffd" in name)


@pytest.mark.parametrize(
    ("stream", "body", "kind", "rows"),
    [
        ({}, b'{"id": 1}\n\n{"id": 2}\r\n', "application/x-ndjson", [{"id": 1}, {"id": 2}]),
        ({"columns": {"id": "integer", "on": "boolean"}}, b'id,on,t\n1,true,"a,b"\n2,,007\n', "text/csv; charset=utf-8",
         [{"id": 1, "on": True, "t": "a,b"}, {"id": 2, "on": None, "t": "007"}]),
        ({"format": "csv", "delimiter": ";"}, b"id;t\n1;x\n", "text/plain", [{"id": "1", "t": "x"}]),
        ({"format": "csv"}, b"id\n" + b"x" * 140_000, "text/plain", [{"id": "x" * 140_000}]),
        ({"records": "."}, b'{"id": 1}', "application/json", [{"id": 1}]),
        ({"records": "data"}, b'{"data": {"id": 1}}', "application/json", [{"id": 1}]),
        ({"records": "data"}, b'{"data": null}', "application/json", []),
        ({"records": "data", "missing": "empty"}, b'{"x": 1}', "application/json", []),
        ({"records": "a.*.b"}, b'{"a": [{"b": [{"id": 1}]}, {"b": []}, {"b": [{"id": 2}]}]}', "application/json", [{"id": 1}, {"id": 2}]),
        ({"records": "a.*"}, b'{"a": {"x": {"id": 1}, "y": {"id": 2}}}', "application/json", [{"id": 1}, {"id": 2}]),
    ],
)  # fmt: skip
async def test_rows_are_where_the_stream_says(shop: Api, stream: dict[str, Any], body: bytes, kind: str, rows: Any) -> None:
    shop.answer = lambda _: web.Response(body=body, headers={"Content-Type": kind})
    assert (await shop.one(stream)).rows() == rows


async def test_a_missing_path_names_what_is_there(shop: Api) -> None:
    shop.answer = lambda _: {"result": [], "token": SECRET}
    with pytest.raises(
        SetupError, match=r"has no `data`, where the rows should be; .* its keys are result, token, lists are in result"
    ):
        await shop.one({"records": "data"})
    assert SECRET not in " ".join(each.text for each in shop.heard)


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest",
        "http://localhost:{port}/secret",
        "http://[::1]:{port}/",
        "ftp://x/",
        "http://127.0.0.1:1/",
    ],
)
@pytest.mark.parametrize("how", ["redirect", "next"])
async def test_an_api_cannot_lead_to_a_private_address(shop: Api, target: str, how: str) -> None:
    place = target.format(port=shop.url.rpartition(":")[2])

    def answer(_: web.Request) -> Any:
        return web.Response(status=302, headers={"Location": place}) if how == "redirect" else {"data": ROWS, "next": place}

    shop.answer = answer
    paging = {"type": "next_url", "next": "next"}
    with pytest.raises(SetupError, match=r"no address of the internet; .*`allow_hosts`|no http address"):
        await shop.one({"records": "data", "paging": paging}, auth={"type": "bearer", "token": SECRET})
    assert len(shop.requests) == 1


async def test_the_login_goes_to_no_other_host_unless_it_is_allowed(
    shop: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    def other(request: web.Request) -> Any:
        seen.append(dict(request.headers))
        return ROWS if "Authorization" in request.headers else web.Response(status=401)

    async with api(other, tmp_path) as far:
        shop.answer = lambda _: web.Response(status=307, headers={"Location": f"{far.url}/rows"})
        host = far.url.removeprefix("http://")
        options: dict[str, Any] = {"auth": {"type": "bearer", "token": SECRET}, "headers": {"X-Own": SECRET}}
        found = await shop.one({}, allow_hosts=[host], **options)
        assert found.ids() == IDS
        assert seen[-1]["X-Own"] == SECRET
        monkeypatch.setattr(egress, "is_public", lambda _: True)  # as if it were an address of the internet
        with pytest.raises(
            SetupError, match="the login does not go to this host; if it may have it, write it into `allow_hosts`"
        ):
            await shop.one({}, **options)
        assert SECRET not in str(seen[-1])


async def test_requests_keep_their_distance(shop: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    def answer(request: web.Request) -> Any:
        first = (int(request.query["page"]) - 1) * 5
        return ROWS[first : first + 5]

    shop.answer = answer
    monkeypatch.setattr("connector_runner.sources.http_api.link.asyncio", SimpleNamespace(sleep=sleep))
    await shop.one({"paging": {"type": "page"}}, requests_per_second=0.01)
    assert [round(wait / 100) for wait in waits] == [1, 2, 3, 4, 5, 6]  # none of them took its time


def test_zero_bytes_behind_a_gzip_member_are_padding_as_for_gzip_itself() -> None:
    for packed in (gzip.compress(b"[1]") + bytes(512), gzip.compress(b"[") + bytes(3) + gzip.compress(b"1]")):
        for size in (1, 7, len(packed)):
            unpack = _Unpacker()
            pieces = (packed[at : at + size] for at in range(0, len(packed), size))
            assert b"".join(part for piece in pieces for part in unpack.feed(piece, 100)) == b"[1]"
            assert unpack.whole
