"""Sends a file of events to the edge, as any client does: over HTTP, in batches, until each has its answer.

A line is one event. If the edge cannot take a batch now (503, 429, no link), it is sent again at the time that the edge names.
Every event has a messageId (given here if the file has none), so a batch whose answer was lost is not delivered twice. A line
that is not JSON travels alone, so that it costs no neighbour.

The ids given here come from the line and its number, so a file that is sent again, whole or from a line on, has the same ids.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import aiohttp
import msgspec

from penstock.control.wording import cut
from shared.backoff import Backoff
from shared.errors import NotConnected, SetupError

BATCH_EVENTS = 200
BATCH_BYTES = 1024 * 1024
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
REQUEST_SECONDS = 60.0
LEAST_REQUEST_SECONDS = 1.0
"""The timeout of a request when patience is at its end; aiohttp takes 0 for no limit."""
SHOWN_MESSAGE = 300
"""Characters of an answer that an error repeats."""
SHOWN_REJECTS = 10


class _Ids(msgspec.Struct):
    messageId: object = None  # noqa: N815  # the clients' spelling


_LINE = uuid.UUID("6b0f3a9e-6d0c-4c53-9a41-5a2f1d7f0c11")
"""The namespace of ids that come from a line of a file."""

_decode_ids = msgspec.json.Decoder(_Ids).decode


@dataclass(slots=True)
class Sent:
    """The fate of the events. `refused` are events of requests that were refused whole."""

    events: int = 0
    accepted: int = 0
    rejected: int = 0
    refused: int = 0
    retries: int = 0
    rejects: list[dict[str, object]] = field(default_factory=list)
    """The first few rejects, with their line."""
    next_line: int = 1
    """The first line whose fate is unknown."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that travel together; `first_line` counts from 1."""

    lines: tuple[bytes, ...]
    numbers: tuple[int, ...]


def batches(
    lines: Iterable[bytes], batch_events: int = BATCH_EVENTS, *, from_line: int = 1, repeatable: bool = True
) -> Iterator[Batch]:
    """Packs lines into batches, in their order; leaves out empty lines.

    Args:
        from_line: leave out the lines before it.
        repeatable: events without an id get the same id in every run.
    """
    held: list[tuple[int, bytes]] = []
    size = 0

    def take() -> Batch:
        batch = Batch(tuple(line for _, line in held), tuple(number for number, _ in held))
        held.clear()
        return batch

    for number, raw in enumerate(lines, 1):
        line = raw.strip()
        if not line or number < from_line:
            continue
        known = _with_id(line, number if repeatable else None)
        alone = known is None
        line = known or line
        if held and (alone or len(held) >= batch_events or size + len(line) > BATCH_BYTES):
            yield take()
            size = 0
        held.append((number, line))
        size += len(line)
        if alone:
            yield take()
            size = 0
    if held:
        yield take()


async def send(
    edge_url: str,
    key: str,
    source: Iterable[Batch],
    on_progress: Callable[[Sent, str], None] = lambda _sent, _note: None,
    patience_seconds: float = 600.0,
    sent: Sent | None = None,
) -> Sent:
    """Sends batches one after the other, which keeps the order of the file.

    Args:
        key: `id` or `id:secret`.
        on_progress: gets the numbers so far and a note (why it waits).
        patience_seconds: how long one batch is tried while the edge cannot take it.
        sent: filled and returned, for a caller that may be interrupted.

    Raises:
        SetupError: the edge refuses the key.
        NotConnected: the edge did not take a batch within `patience_seconds`; the message has the numbers so far.
    """
    sent = sent or Sent()
    credentials = base64.b64encode((key if ":" in key else f"{key}:").encode()).decode()
    headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for batch in source:
            sent.next_line = batch.numbers[0]
            await _deliver(
                session=session,
                url=f"{edge_url.rstrip('/')}/v1/batch",
                batch=batch,
                sent=sent,
                on_progress=on_progress,
                patience_seconds=patience_seconds,
            )
            sent.next_line = batch.numbers[-1] + 1
    return sent


async def _deliver(
    session: aiohttp.ClientSession,
    url: str,
    batch: Batch,
    sent: Sent,
    on_progress: Callable[[Sent, str], None],
    patience_seconds: float,
) -> None:
    body = b'{"batch":[' + b",".join(batch.lines) + b"]}"
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + patience_seconds
    backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
    while True:
        left = max(LEAST_REQUEST_SECONDS, ends_at - loop.time())
        status, text, retry_after = await _post(session, url, body, min(REQUEST_SECONDS, left))
        if status == 200:
            _count(batch, text, sent)
            return on_progress(sent, "")
        if status == 401:
            raise SetupError(f"{url} refuses the key: {_message(text)}; say which one to use with --key ID or --key ID:SECRET")
        if status not in (0, 408, 429) and status < 500:
            sent.events += len(batch.lines)
            sent.refused += len(batch.lines)
            _remember(sent, {"line": batch.numbers[0], "reason": _code(status, text), "detail": _refusal(batch, status, text)})
            return on_progress(sent, "")
        why = f"{status}: {_message(text)}" if status else text
        if loop.time() >= ends_at:
            raise NotConnected(
                f"{url} did not take the batch from line {batch.numbers[0]} within {patience_seconds:g} s ({why}); "
                f"{sent.accepted} events were accepted before it"
            )
        pause = backoff.next()
        wait = min(retry_after or pause, ends_at - loop.time())
        sent.retries += 1
        on_progress(sent, f"waits {wait:g} s: {why}")
        await asyncio.sleep(wait)


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, seconds: float) -> tuple[int, str, float]:
    """Returns status, text and Retry-After; status 0 if no answer came."""
    try:
        async with session.post(url, data=body, timeout=aiohttp.ClientTimeout(total=seconds)) as answer:
            after = answer.headers.get("Retry-After", "")
            return answer.status, await answer.text(), float(after) if after.isdigit() else 0.0
    except TimeoutError:
        return 0, "no answer in time", 0.0
    except aiohttp.ClientConnectorError as exc:
        return 0, f"cannot connect: {_words(exc.os_error)}", 0.0
    except (aiohttp.ClientError, OSError) as exc:
        return 0, str(exc) or type(exc).__name__, 0.0


def _words(error: OSError) -> str:
    """Returns the system's words: asyncio puts its own, with the address, into an error of connecting."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


def _count(batch: Batch, text: str, sent: Sent) -> None:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    rejected = int(answer.get("rejected", 0)) if isinstance(answer, dict) else 0
    sent.events += len(batch.lines)
    sent.rejected += rejected
    sent.accepted += len(batch.lines) - rejected
    for reject in answer.get("rejects", []) if rejected else []:
        index = int(reject.get("index", 0))
        line = batch.numbers[index] if index < len(batch.numbers) else batch.numbers[-1]
        _remember(sent, {"line": line, "reason": reject.get("reason"), "detail": reject.get("detail")})


def _remember(sent: Sent, reject: dict[str, object]) -> None:
    if len(sent.rejects) < SHOWN_REJECTS:
        sent.rejects.append(reject)


def _refusal(batch: Batch, status: int, text: str) -> str:
    """Returns why a request was refused; names lines of the file, because the edge names events of the request."""
    if status == 400 and len(batch.lines) == 1:
        try:
            msgspec.json.decode(batch.lines[0])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            return f"the line is not JSON: {exc}"
    lines = "" if len(batch.lines) == 1 else f" (lines {batch.numbers[0]} to {batch.numbers[-1]}, one request)"
    return _message(text) + lines


def _with_id(line: bytes, number: int | None) -> bytes | None:
    """Returns the line with a messageId; None if it is not JSON."""
    try:
        if line[:1] != b"{":
            msgspec.json.decode(line, type=msgspec.Raw)
            return line
        given = _decode_ids(line).messageId
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if given:
        return line
    given_id = uuid.uuid4() if number is None else uuid.uuid5(_LINE, f"{number} {hashlib.sha256(line).hexdigest()}")
    # at the end: the last of two equal keys counts, and the file may hold `"messageId": null`
    rest = line[:-1].rstrip()
    return rest + (b"" if rest == b"{" else b",") + b'"messageId":"' + given_id.hex.encode() + b'"}'


def _code(status: int, text: str) -> str:
    """Returns the edge's code for a refusal; a proxy's answer has none."""
    try:
        return str(json.loads(text)["code"])
    except (ValueError, TypeError, KeyError):
        return f"http_{status}"


def _message(text: str) -> str:
    try:
        answer = json.loads(text)
        return cut(str(answer.get("message") or answer.get("code") or text), SHOWN_MESSAGE)
    except (ValueError, AttributeError):
        return cut(text.strip(), SHOWN_MESSAGE)
