"""Sends requests, patiently: waits where the API says so, tries broken ones again, follows redirects, and reads no more than is allowed.

The login goes to the hosts that the user wrote, and to no other. Other hosts, to which a redirect or a next link leads, must be
addresses of the internet: an API cannot make us ask a neighbour (`shared/driving/egress.py`).
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec
from multidict import CIMultiDictProxy
from yarl import URL

from connector_runner.contract import Listener, Said
from connector_runner.sources.http_api.login import Login
from connector_runner.sources.http_api.options import OPTIONS, ApiStream, OAuth2
from connector_runner.sources.http_api.page import Answer, Page, empty, page_of
from connector_runner.sources.http_api.request import Request
from shared.backoff import Backoff
from shared.driving.egress import Guard, Refused
from shared.errors import NotConnected, PenstockError, SetupError, Transient
from shared.reading.mask import Mask
from shared.reading.wait import retry_after
from shared.tasks import timeout

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
"""Of waits after errors."""
SHORTEST_SECONDS = 0.1
"""Of a wait that an API asks for; a shorter one is as long as after an error."""
MOST_REDIRECTS = 5
CONNECTIONS = 4
_AGENT = "Penstock"
_PIECE_BYTES = 256 * 1024
_RESETS = ("X-RateLimit-Reset", "X-Rate-Limit-Reset", "RateLimit-Reset")
_EPOCH = 1e9
"""A reset beyond it is a moment, not a number of seconds."""
_WORDS = 200


class Heard(NamedTuple):
    """What a server answered. `shown`: the address for people. `logged_in`: whether the login went there."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    shown: str
    logged_in: bool


class Link:
    """The way to one API.

    Args:
        heard: takes lines for people.
        mask: the secrets of the options.
    """

    def __init__(self, options: OPTIONS, heard: Listener, mask: Mask) -> None:
        self._options = options
        self._heard = heard
        self._trusted = frozenset(_trusted(options))
        also = {_place(options.auth.token_url)} if isinstance(options.auth, OAuth2) else set()
        remedy = "if the API may lead there, write the host into `allow_hosts`"
        self._guard = Guard(trusted=self._trusted | also, remedy=remedy)
        self._session: aiohttp.ClientSession | None = None
        self._turn_at = 0.0
        self.login = Login(options.auth, self._post, mask)

    async def page(self, request: Request, stream: ApiStream) -> Page:
        """Returns the rows that a request finds.

        Raises:
            SetupError: a person must act.
            Transient: the API does not answer as it should, also after some tries.
        """
        options, backoff = self._options, Backoff(FIRST_SECONDS, LONGEST_SECONDS)
        tries, waited, renewed = 0, 0.0, False
        while True:
            try:
                heard, headers = await self._ask(request)
                if heard.status == 401 and self.login.renewable and heard.logged_in and not renewed:
                    renewed = True
                    await self.login.refused(headers)
                    continue
                wait = _asked_to_wait(heard)
                if wait is None:
                    return self._page(request, stream, heard)
                wait = wait if wait >= SHORTEST_SECONDS else backoff.next()  # 0 again and again would be no wait at all
                words = f"{heard.shown}: the API answers {heard.status} and wants fewer requests"
                if waited + wait > options.longest_wait:
                    raise _Enough(
                        f"{words}; it would have to wait {wait:.0f} s more, `longest_wait` is {options.longest_wait:g} s"
                    )
                waited += wait
            except _Enough as exc:
                raise Transient(str(exc)) from exc
            except Transient as exc:
                tries += 1
                if tries > options.retries:
                    raise
                wait, words = backoff.next() * random.uniform(0.8, 1.2), str(exc)  # spreads, hides nothing
            if wait:
                self._heard(Said("info", f"{words}; tries again in {wait:.0f} s"))
                await asyncio.sleep(wait)

    async def close(self) -> None:
        """Closes its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _page(self, request: Request, stream: ApiStream, heard: Heard) -> Page:
        answer = Answer(request, heard.status, heard.headers, heard.body)
        if heard.status in stream.empty_at:
            return empty(answer)
        if 200 <= heard.status < 300:
            return page_of(stream, answer)
        words = f"{heard.shown}: the API answers {heard.status}{_quoted(heard.body)}"
        if heard.status in (408, 425) or heard.status >= 500:
            raise Transient(words)
        raise SetupError(f"{words}; {self._remedy(heard)}")

    def _remedy(self, heard: Heard) -> str:
        if heard.status in (401, 403, 407):
            if not heard.logged_in:
                return "the login does not go to this host; if it may have it, write it into `allow_hosts`"
            return "check `auth` and its rights" if self._options.auth is not None else "write `auth`, or check `headers`"
        if heard.status in (404, 410):
            return "check `base_url` and `path`; if it means that there are no rows, write the status into `empty_at`"
        return "check `params`, `body`, `cursor` and `paging` of the stream"

    async def _ask(self, request: Request) -> tuple[Heard, dict[str, str]]:
        """Returns the answer at the end of all redirects, and the headers that went there."""
        method, url, body = (
            request.method,
            _with_query(request),
            None if request.body is None else msgspec.json.encode(request.body),
        )
        for _ in range(MOST_REDIRECTS + 1):
            known = _place(str(url)) in self._trusted
            headers = {"Accept": "application/json, application/x-ndjson, text/csv, */*;q=0.1"}
            if known:
                login, params = await self.login.parts()
                headers |= {**self._options.headers, **request.headers, **login}
                for name, value in params.items():
                    url = url.update_query({name: value})
            if body is not None:
                headers["Content-Type"] = "application/json"
            heard = await self._exchange(method, url, headers, body, logged_in=known)
            if heard.status not in (301, 302, 303, 307, 308) or "Location" not in heard.headers:
                return heard, headers
            target = _joined(url, heard.headers["Location"], heard.shown)
            if heard.status == 303 or (heard.status in (301, 302) and method == "POST"):
                method, body = "GET", None
            url = target
        raise SetupError(f"{request.shown}: more than {MOST_REDIRECTS} redirects; write the final address")

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        heard = await self._exchange("POST", URL(url), headers, body, logged_in=True)
        return heard.status, heard.body

    async def _exchange(self, method: str, url: URL, headers: Mapping[str, str], body: bytes | None, *, logged_in: bool) -> Heard:
        """Sends one request.

        Raises:
            SetupError: it may not go there, or the answer is too large.
            NotConnected: there is no answer.
        """
        shown = str(url.with_query(None).with_fragment(None).with_user(None))
        await self._turn()
        try:
            self._guard.check_host(url.raw_host or "", url.port or 0)
            async with (
                timeout(self._options.timeout),
                self._opened().request(method, url, headers=headers, data=body, allow_redirects=False) as answer,
            ):
                found = await self._read(answer, shown)
                return Heard(status=answer.status, headers=answer.headers, body=found, shown=shown, logged_in=logged_in)
        except TimeoutError as exc:
            raise NotConnected(f"{shown}: no whole answer within {self._options.timeout:g} s (`timeout`)") from exc
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise _translated(exc, shown) from exc

    async def _read(self, answer: aiohttp.ClientResponse, shown: str) -> bytes:
        most, body = int(self._options.max_page), bytearray()
        packed = answer.headers.get("Content-Encoding", "").strip().lower()
        if packed not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise SetupError(f"{shown}: the answer is packed with {packed}, which nobody asked for")
        unpack = _Unpacker() if packed not in ("", "identity") else None
        async for piece in answer.content.iter_chunked(_PIECE_BYTES):
            for part in (piece,) if unpack is None else unpack.feed(piece, most + 1 - len(body)):
                body += part
                if len(body) > most:
                    raise SetupError(
                        f"{shown}: the answer is larger than {most} bytes; ask for smaller pages, or raise `max_page`"
                    )
        if unpack is not None and not unpack.whole:
            raise NotConnected(f"{shown}: the answer was cut off")
        return bytes(body)

    async def _turn(self) -> None:
        """Waits until a request may be sent."""
        rate = self._options.requests_per_second
        if rate is None:
            return
        now = time.monotonic()
        at = max(now, self._turn_at)
        self._turn_at = at + 1 / rate
        if at > now:
            await asyncio.sleep(at - now)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(resolver=self._guard, limit=CONNECTIONS, use_dns_cache=False)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"User-Agent": _AGENT, "Accept-Encoding": "gzip"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._options.connect_timeout),
                trust_env=False,
            )
        return self._session


class _Enough(Exception):
    """The API wants a longer wait than the options allow."""


class _Unpacker:
    """Unpacks gzip and deflate piece by piece, no further than is wanted."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._begun = False

    @property
    def whole(self) -> bool:
        """Whether the last member came to its end."""
        return self._member.eof or not self._begun

    def feed(self, piece: bytes, most: int) -> Iterator[bytes]:
        """Yields what a piece unpacks to; at most so many bytes."""
        while piece and most > 0:
            if self._member.eof:
                piece = piece.lstrip(b"\0")  # padding, as gzip itself takes it
                if not piece:
                    return
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 32)
            self._begun = True
            try:
                part = self._member.decompress(piece, most)
            except zlib.error as exc:
                raise ValueError(f"it cannot be unpacked: {exc}") from exc
            piece = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            most -= len(part)
            yield part


def _trusted(options: OPTIONS) -> Iterable[tuple[str, int]]:
    """Yields hosts with their ports that the user wrote."""
    yield _place(options.base_url)
    for each in options.streams.values():
        if "://" in each.path:
            yield _place(each.path)
    scheme = urlsplit(options.base_url).scheme
    for host in options.allow_hosts:
        yield _place(host if "://" in host else f"{scheme}://{host}")


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _with_query(request: Request) -> URL:
    try:
        url = URL(request.url, encoded="%" in request.url)
        _place(str(url))  # a port beyond all ports is found there
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise ValueError
    except ValueError as exc:
        raise SetupError(f"{request.shown[:100]}: this is no http address") from exc
    return url.extend_query(list(request.params)) if request.params else url


def _joined(url: URL, location: str, shown: str) -> URL:
    try:
        target = url.join(URL(location, encoded="%" in location))
        _place(str(target))  # a port beyond all ports is found there
    except ValueError:
        target = URL()
    if target.scheme not in ("http", "https") or not target.raw_host:
        raise SetupError(f"{shown}: the API redirects to no http address")
    return target


def _asked_to_wait(heard: Heard) -> float | None:
    """Returns how many seconds an answer asks to wait; less than 0: it does not say how long; None: it does not ask."""
    headers = heard.headers
    after = retry_after(headers, time.time())
    spent = after is not None or headers.get("X-RateLimit-Remaining") == "0"
    if heard.status != 429 and not (heard.status == 503 and after is not None) and not (heard.status == 403 and spent):
        return None
    if after is not None:
        return after
    for name in _RESETS:
        try:
            reset = float(headers.get(name, ""))
        except ValueError:
            continue
        return max(0.0, reset - time.time() if reset > _EPOCH else reset)
    return -1.0


def _translated(error: Exception, shown: str) -> PenstockError:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, Refused):
        return SetupError(f"{shown}: {cause.strerror}")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return SetupError(f"{shown}: its certificate cannot be trusted: {error}")
    if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
        return SetupError(f"{shown}: the host name is unknown; check `base_url`")
    return NotConnected(f"{shown}: {cause or type(cause).__name__}")


def _quoted(body: bytes) -> str:
    line = " ".join(body[: 4 * _WORDS].decode("utf-8", "replace").split())
    said = "".join(each if each.isprintable() else "\ufffd" for each in line)[:_WORDS]
    return f": {said}" if said else ""
