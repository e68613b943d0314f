"""Sends one call over HTTP and reads its answer, both bounded in time and size.

Redirects are not followed: a redirect is an answer. Cookies are not kept, and compression is not asked for; an answer that a proxy
compresses all the same is decoded, no further than the bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import AsyncIterator

import aiohttp

from loader.contract.events import (
    IDEMPOTENCY_KEY,
    MOST_STEPS,
    Answer,
    Call,
    DefectError,
    HTTPDestination,
    Response,
    SendLimits,
    Way,
)
from shared.events.outcome import Retry
from shared.reading.mask import Mask

AGENT = "Penstock"


class NoAnswer(Exception):
    """A call got no answer; the text says why. `sent`: whether the server may have got the call."""


class Client:
    """Sends requests."""

    def __init__(self, session: aiohttp.ClientSession, limits: SendLimits) -> None:
        self._session = session
        self._limits = limits

    async def send(self, call: Call, key: str) -> Response:
        """Sends a call.

        Args:
            key: its idempotency key.

        Raises:
            NoAnswer: the call could not be sent, or was not answered.
        """
        headers = dict(call.headers)
        headers.setdefault(IDEMPOTENCY_KEY, key)
        try:
            async with self._session.request(
                call.method, call.url, data=call.body or None, headers=headers, allow_redirects=False
            ) as answer:
                body = await self._read(answer)
                found = {name.lower(): value for name, value in answer.headers.items()}
                plain = _plain(body, found.get("content-encoding", ""), self._limits.answer_bytes)
                return Response(answer.status, found, plain, time.time())
        except TimeoutError as exc:
            raise NoAnswer(f"no answer within {self._limits.timeout_seconds:g} s") from exc
        except aiohttp.ClientConnectorError as exc:
            raise NoAnswer(f"cannot connect to {exc.host}:{exc.port}: {exc.os_error.strerror or exc.os_error}") from exc
        except aiohttp.InvalidURL as exc:
            raise NoAnswer("its url is no address") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise NoAnswer(f"the connection ended before an answer came: {type(exc).__name__}") from exc

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        most = self._limits.answer_bytes
        body = bytearray()
        while piece := await answer.content.read(most):
            body += piece
            if len(body) > most:
                answer.close()  # an endless answer must not be read for ever
                break
        return bytes(body[:most])


def _plain(body: bytes, encoding: str, most: int) -> bytes:
    """Returns a body without its compression, cut at `most` bytes; as it came, if it is broken or compressed in another way."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, most)
    except zlib.error:
        return body


def masked(response: Response, mask: Mask) -> Response:
    """Returns an answer in which the secrets are hidden that the other side echoes."""
    headers = {name: mask.text(value) for name, value in response.headers.items()}
    return Response(response.status, headers, mask.body(response.body), response.at)


@contextlib.asynccontextmanager
async def client(limits: SendLimits) -> AsyncIterator[Client]:
    """Opens a client."""
    connector = aiohttp.TCPConnector(limit=limits.calls_at_once)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"User-Agent": AGENT, "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=limits.timeout_seconds),
    )
    try:
        yield Client(session, limits)
    finally:
        await session.close()
        await asyncio.sleep(0)  # transports close in the next turn of the loop


class HTTPLink:
    """See `Link`. Sends a call, and the calls that follow from its answer."""

    trouble = ""

    def __init__(self, destination: HTTPDestination, sender: Client, way: Way) -> None:
        self._destination = destination
        self._sender = sender
        self._way = way

    async def send(self, call: Call, key: str) -> Answer:
        """See `Link.send`."""
        count = len(call.events)
        for step in range(MOST_STEPS):
            start = time.perf_counter()
            try:
                response = await self._sender.send(call, f"{key}/{step}" if step else key)
            except NoAnswer as exc:
                self._way.note("no_answer", time.perf_counter() - start)
                return Answer([Retry(self._way.mask.text(str(exc)))] * count)
            response = masked(response, self._way.mask)
            self._way.note(f"{response.status // 100}xx", time.perf_counter() - start)
            try:
                answered = self._destination.answer(call, response)
            except Exception as exc:
                raise DefectError from exc
            if not isinstance(answered, Call):
                wants = next((each for each in answered if isinstance(each, Retry)), None)
                # what wants some events later, and says when, works
                works = wants is not None and wants.after is not None and not wants.everyone and response.status < 500
                return Answer(answered, works)
            call = answered
        return Answer([Retry(f"{MOST_STEPS} calls in a row did not tell what became of it")] * count)


@contextlib.asynccontextmanager
async def link(destination: HTTPDestination, way: Way) -> AsyncIterator[HTTPLink]:
    """Opens the link of a connection."""
    async with client(destination.limits) as sender:
        yield HTTPLink(destination, sender, way)
