"""How a file becomes requests, and what is done about the answers; the edge here is a real HTTP server that is told what to say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from penstock.command.cli import run
from penstock.command.verbs.events import _show, _told, interrupted
from penstock.control.data.send import Batch, Sent, batches, send
from penstock.control.data.tail import Tailed
from penstock.terminal import exits
from penstock.terminal.screen import Screen
from shared.errors import NotConnected, SetupError

Answer = Callable[[int, bytes], web.Response]


@asynccontextmanager
async def edge(answer: Answer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serves `/v1/batch` with what `answer` makes of the number of the request and its body."""
    seen: list[bytes] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(await request.read())
        return answer(len(seen) - 1, seen[-1])

    app = web.Application()
    app.router.add_post("/v1/batch", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


def ok(_number: int, _body: bytes) -> web.Response:
    return web.json_response({"success": True})


def lines(count: int) -> list[bytes]:
    return [json.dumps({"messageId": f"m{number}", "type": "track"}).encode() for number in range(count)]


def test_lines_keep_their_order_and_their_numbers_over_empty_lines() -> None:
    packed = list(batches([b'{"messageId":"a"}', b"", b' {"messageId":"b"}\n', b'{"messageId":"c"}'], 2))
    assert packed == [Batch((b'{"messageId":"a"}', b'{"messageId":"b"}'), (1, 3)), Batch((b'{"messageId":"c"}',), (4,))]


def test_an_event_without_an_id_gets_one_and_is_otherwise_as_it_was() -> None:
    (batch,) = batches([b'{"type":"page"}', b"{}", b'{"messageId":"","type":"x"}', b'{ "messageId": "kept" }'])
    first, empty, blank, kept = (json.loads(line) for line in batch.lines)
    assert first["type"] == "page"
    assert len(first["messageId"]) == 32
    assert list(empty) == ["messageId"]
    assert kept["messageId"] == "kept"
    assert blank["type"] == "x"
    # as those read who take the last of two equal keys, and a repeat of the request must be known again
    (null,) = next(batches([b'{"messageId": null, "type": "page" }'])).lines
    assert all(len(json.loads(line)["messageId"]) == 32 for line in (batch.lines[2], null))


def test_a_line_that_is_not_json_travels_alone() -> None:
    packed = list(batches([b'{"messageId":"a"}', b'{"broken": ', b'{"messageId":"b","v":NaN}', b'{"messageId":"c"}']))
    assert [batch.numbers for batch in packed] == [(1,), (2,), (3,), (4,)]


def test_json_that_is_no_object_travels_with_the_others() -> None:
    (batch,) = batches([b'"text"', b"[1]", b"7"])
    assert batch.lines == (b'"text"', b"[1]", b"7")


def test_a_batch_is_bounded_in_bytes() -> None:
    line = b'{"messageId":"a","v":"' + b"x" * 400_000 + b'"}'
    assert [len(batch.lines) for batch in batches([line] * 5)] == [2, 2, 1]


async def test_everything_is_sent_once_and_in_order() -> None:
    async with edge(ok) as (url, seen):
        sent = await send(url, "key", batches(lines(10), 4))
    assert sent.accepted == sent.events == 10
    ids = [event["messageId"] for body in seen for event in json.loads(body)["batch"]]
    assert ids == [f"m{number}" for number in range(10)]


async def test_a_busy_edge_is_asked_again_with_the_same_bytes() -> None:
    def busy_twice(number: int, body: bytes) -> web.Response:
        if number < 2:
            return web.json_response(
                {"code": "busy", "message": "later"}, status=503 if number else 429, headers={"Retry-After": "0"}
            )
        return ok(number, body)

    notes: list[str] = []
    async with edge(busy_twice) as (url, seen):
        sent = await send(url, "key", batches(lines(3)), lambda _sent, note: notes.append(note))
    assert (sent.accepted, sent.retries) == (3, 2)
    assert seen[0] == seen[1] == seen[2]
    assert "429: later" in notes[0]


async def test_rejects_are_counted_and_named_by_their_line() -> None:
    def rejects_second(_number: int, _body: bytes) -> web.Response:
        rejects = [{"index": 1, "reason": "missing_id", "detail": "no id"}]
        return web.json_response({"success": True, "accepted": 2, "rejected": 1, "rejects": rejects})

    async with edge(rejects_second) as (url, _):
        sent = await send(url, "key", batches([b"", *lines(3)]))
    assert (sent.accepted, sent.rejected) == (2, 1)
    assert sent.rejects == [{"line": 3, "reason": "missing_id", "detail": "no id"}]


async def test_a_refused_request_does_not_stop_the_others() -> None:
    def refuses_first(number: int, body: bytes) -> web.Response:
        return ok(number, body) if number else web.json_response({"code": "malformed", "message": "not JSON"}, status=400)

    async with edge(refuses_first) as (url, _):
        sent = await send(url, "key", batches([b'{"broken', *lines(2)]))
    assert (sent.events, sent.accepted, sent.refused) == (3, 2, 1)
    assert sent.rejects[0] == {
        "line": 1,
        "reason": "malformed",
        "detail": "the line is not JSON: Input data was truncated",
    }


async def test_a_wrong_key_is_an_error_that_says_so() -> None:
    def unknown(_number: int, _body: bytes) -> web.Response:
        return web.json_response({"code": "unknown_key", "message": "no such key"}, status=401)

    async with edge(unknown) as (url, _):
        with pytest.raises(SetupError, match=r"no such key.*--key"):
            await send(url, "key", batches(lines(1)))


async def test_an_edge_that_is_away_is_given_up_on_after_some_patience() -> None:
    with pytest.raises(NotConnected, match=r"line 1.*\(cannot connect: Connection refused\)"):
        await send("http://127.0.0.1:1", "key", batches(lines(1)), patience_seconds=0)


async def test_the_key_travels_as_basic_credentials() -> None:
    headers: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        headers.append(request.headers["Authorization"])
        return web.json_response({"success": True})

    app = web.Application()
    app.router.add_post("/v1/batch", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        await send(f"http://127.0.0.1:{runner.addresses[0][1]}/", "id:secret", batches(lines(1)))
    finally:
        await runner.cleanup()
    assert headers == ["Basic aWQ6c2VjcmV0"]


def test_a_file_sent_again_brings_the_same_ids_also_from_a_line_on() -> None:
    file = [b'{"type":"page"}', b'{"type":"page"}', b'{"type":"track"}']
    first, again = (next(batches(file)).lines for _ in range(2))
    assert first == again
    assert len({json.loads(line)["messageId"] for line in first}) == 3
    (rest,) = batches(file, from_line=2)
    assert (rest.lines, rest.numbers) == (first[1:], (2, 3))
    assert next(batches(file, repeatable=False)).lines != first


async def test_who_is_interrupted_knows_the_line_with_which_the_rest_begins() -> None:
    sent = Sent()

    def second_never(number: int, body: bytes) -> web.Response:
        if number:
            task.cancel()
        return ok(number, body)

    async with edge(second_never) as (url, _):
        task = asyncio.create_task(send(url, "key", batches(lines(6), 2), sent=sent))
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (sent.accepted, sent.next_line) == (2, 3)
    assert interrupted(sent, Path("f")).endswith("the rest begins with line 3: go on with --from-line 3, nothing is loaded twice")


async def test_patience_holds_for_an_edge_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.control.data.send.LEAST_REQUEST_SECONDS", 0.1)
    answered = asyncio.Event()

    async def never(_request: web.Request) -> web.Response:
        await answered.wait()
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/batch", never)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(NotConnected, match=r"within 0\.2 s"):
            await send(f"http://127.0.0.1:{runner.addresses[0][1]}", "key", batches(lines(1)), patience_seconds=0.2)
    finally:
        answered.set()
        await runner.cleanup()


async def test_a_refusal_tells_places_of_the_file_not_of_the_request() -> None:
    def refuses(number: int, _body: bytes) -> web.Response:
        return web.json_response({"message": "column 23"}, status=413 if number else 400)

    async with edge(refuses) as (url, _):
        sent = await send(url, "key", batches([b'{"broken": x}', *lines(2)]))
    assert sent.rejects == [
        {"line": 1, "reason": "http_400", "detail": "the line is not JSON: JSON is malformed: invalid character (byte 11)"},
        {"line": 2, "reason": "http_413", "detail": "column 23 (lines 2 to 3, one request)"},
    ]


def test_refused_events_are_not_said_to_be_kept(capsys: pytest.CaptureFixture[str]) -> None:
    _show(Screen(), Sent(events=1, refused=1, rejects=[{"line": 1, "reason": "http_413", "detail": ""}]))
    said = capsys.readouterr().out
    assert "refused events are not kept" in said
    assert "are kept" not in said


def test_an_edge_without_a_key_is_told_apart_from_no_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["send", "-", "--url", "http://127.0.0.1:1", "--home", str(tmp_path / "none")]
    assert run(arguments) == exits.SETUP
    assert "say it with --key" in capsys.readouterr().err


def test_the_line_of_an_event_fits_a_terminal_and_is_whole_in_a_pipe() -> None:
    at = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)
    found = Tailed(
        "shop", 1, {"receivedAt": at, "type": "track", "event": "Order Completed", "userId": "u" * 36, "messageId": "m-1"}
    )
    narrow, whole = _told(found, 80), _told(found, None)
    assert len(narrow) == 80
    assert narrow.startswith("12:00:00  shop ")
    assert whole.startswith("2026-03-01 12:00:00.123  shop ")
    assert whole.endswith(" m-1")
