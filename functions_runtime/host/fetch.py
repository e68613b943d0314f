"""`ctx.fetch`: one request of a function, through the egress guard, bounded in time and size."""

from __future__ import annotations

import base64
import binascii
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from functions_runtime.sandbox.chain import CallError
from shared.driving.egress import Guard, Refused
from shared.reading.wait import retry_after
from shared.tasks import timeout

DEFAULT_SECONDS = 2.0
MOST_SECONDS = 10.0
MOST_REDIRECTS = 5
MOST_REQUEST_BYTES = 1024 * 1024
MOST_ANSWER_BYTES = 4 * 1024 * 1024
AT_ONCE = 100
"""Connections of one process for `ctx.fetch`. Hydration bounds itself for each connection: APIs that hang must not take the places of others."""

REDIRECTS = (301, 302, 303, 307, 308)
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_OF_ONE_PLACE = frozenset(("authorization", "cookie", "proxy-authorization"))
"""Headers that do not follow a redirect to another host."""
_OURS = frozenset(("host", "content-length", "transfer-encoding", "connection"))


class Got(NamedTuple):
    """An answer to `Fetcher.get`. `body`: empty where it is none of use, and too large. `after`: the seconds of its `Retry-After`."""

    status: int
    body: bytes
    after: float | None = None


class Fetcher:
    """Sends the requests of all functions of a process."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._clients: dict[int, aiohttp.ClientSession] = {}
        """By how many requests may be under way at once; 0: any number."""

    async def fetch(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request and returns the answer: `status`, `statusText`, `headers` as pairs, `base64`, `url`, `redirected`.

        Args:
            request: `url`, and as they are there `method`, `headers` as pairs, `body` (text, or `{base64}`), `timeout` in milliseconds,
                `redirect` (`follow`, `manual`, `error`).

        Raises:
            CallError: it cannot be sent, may not be, or nothing useful comes back in time.
        """
        method = str(request.get("method") or "GET").upper()
        if method not in _METHODS:
            raise CallError(f"fetch: the method {method[:20]} is not known")
        body, headers = _body(request.get("body")), _headers(request.get("headers"))
        given = request.get("timeout")
        seconds = min(MOST_SECONDS, given / 1000) if isinstance(given, int | float) and given > 0 else DEFAULT_SECONDS
        try:
            async with timeout(seconds):
                return await self._follow(
                    method,
                    _url(str(request.get("url"))),
                    headers=headers,
                    body=body,
                    redirect=str(request.get("redirect") or "follow"),
                )
        except TimeoutError as exc:
            raise CallError(f"fetch: no answer within {seconds:g} s") from exc
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as exc:
            raise CallError(f"fetch: {exc or type(exc).__name__}") from exc

    async def get(self, address: str, headers: Mapping[str, str], *, seconds: float, most_bytes: int) -> Got:
        """Sends a GET; returns its answer. The headers go to the scheme, host and port of `address` only.

        Raises:
            TooLargeError: an answer 2xx has more bytes.
            NoAddressError: `address` is none.
            CallError: it may not be sent, or nothing comes back in time. The words name hosts, and no address.
        """
        try:
            url = _url(address)
        except (CallError, ValueError) as exc:  # a port beyond all ports, a host that IDNA does not know
            raise NoAddressError("the address is no http address") from exc
        host = url.host
        sent = {"accept": "application/json", "accept-encoding": "identity"} | {
            name.lower(): each for name, each in headers.items()
        }
        try:
            async with timeout(seconds):
                for _ in range(MOST_REDIRECTS + 1):
                    self._guard.check_host(url.raw_host or "", url.port or 0)
                    async with self._opened(0).get(url, headers=sent, allow_redirects=False) as answer:
                        place = answer.headers.get("location") if answer.status in REDIRECTS else None
                        if place is None:
                            return await _got(answer, most_bytes)
                    target = url.join(URL(place))
                    if target.scheme not in ("http", "https") or not target.host:
                        raise CallError(f"{host} redirects to no http address")
                    if target.origin() != url.origin():
                        sent = {"accept": "application/json", "accept-encoding": "identity"}
                    url, host = target, target.host
        except TimeoutError as exc:
            raise CallError(f"{host} gives no answer within {seconds:g} s") from exc
        except (Refused, aiohttp.ClientConnectionError) as exc:
            raise CallError(f"{host} cannot be reached: {_reason(exc)}") from exc
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as exc:  # their words may hold the address
            raise CallError(f"{host}: {type(exc).__name__}") from exc
        raise CallError(f"{host}: more than {MOST_REDIRECTS} redirects")

    async def _follow(
        self, method: str, url: URL, *, headers: dict[str, str], body: bytes | None, redirect: str
    ) -> dict[str, Any]:
        client = self._opened(AT_ONCE)
        for hop in range(MOST_REDIRECTS + 1):
            self._guard.check_host(url.raw_host or "", url.port or 0)
            async with client.request(method, url, headers=headers, data=body, allow_redirects=False) as answer:
                place = answer.headers.get("location") if answer.status in REDIRECTS else None
                if place is None or redirect == "manual":
                    return await _answer(answer, url, redirected=hop > 0)
                if redirect == "error":
                    raise CallError(f"fetch: {url.host} redirects")
                target = _url(str(url.join(URL(place))))
                if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
                    headers = {name: value for name, value in headers.items() if name.lower() not in _OF_ONE_PLACE}
                if answer.status == 303 or (answer.status in (301, 302) and method == "POST"):
                    method, body = "GET", None
                url = target
        raise CallError(f"fetch: more than {MOST_REDIRECTS} redirects")

    def _opened(self, at_once: int) -> aiohttp.ClientSession:
        client = self._clients.get(at_once)
        if client is None:
            connector = aiohttp.TCPConnector(resolver=self._guard, limit=at_once, use_dns_cache=False)
            client = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
            self._clients[at_once] = client
        return client

    async def close(self) -> None:
        """Closes all connections."""
        for client in self._clients.values():
            await client.close()


class NoAddressError(CallError):
    """Nothing can be sent to this address, now and later."""


class TooLargeError(CallError):
    """The answer has more bytes than are taken."""


async def _body_of(answer: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > most_bytes:
            raise TooLargeError(f"the answer has more than {most_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


async def _got(answer: aiohttp.ClientResponse, most_bytes: int) -> Got:
    try:
        body = await _body_of(answer, most_bytes)
    except TooLargeError:
        if 200 <= answer.status < 300:
            raise
        body = b""  # a long page that says why counts by its status
    return Got(answer.status, body, retry_after(answer.headers, time.time()))


def _reason(exc: Exception) -> str:
    """Returns why a host is not reached; of an error of a connector, its cause."""
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    return str(cause if isinstance(cause, Refused) else getattr(cause, "strerror", None) or type(cause).__name__)


async def _answer(answer: aiohttp.ClientResponse, url: URL, *, redirected: bool) -> dict[str, Any]:
    try:
        body = await _body_of(answer, MOST_ANSWER_BYTES)
    except TooLargeError as exc:
        raise CallError(f"fetch: the answer is larger than {MOST_ANSWER_BYTES >> 20} MiB") from exc
    headers = [
        (_plain(name), _plain(value))
        for name, value in answer.headers.items()
        if name.lower() not in ("content-encoding", "content-length", "set-cookie")
    ]
    return {
        "status": answer.status,
        "statusText": _plain(answer.reason or ""),
        "headers": headers,
        "base64": base64.b64encode(body).decode(),
        "url": str(url),
        "redirected": redirected,
    }


def _plain(text: str) -> str:
    """Returns bytes as characters, which is what `Headers` takes, whatever a server wrote; never a subclass of `str`."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _url(text: str) -> URL:
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host:
        raise CallError(f"fetch: expected an http or https address, got {text[:100]!r}")
    return url


def _body(given: object) -> bytes | None:
    if given is None:
        return None
    try:
        body = base64.b64decode(given["base64"], validate=True) if isinstance(given, dict) else str(given).encode()
    except (KeyError, TypeError, binascii.Error, UnicodeEncodeError) as exc:
        raise CallError("fetch: the body is neither text nor bytes") from exc
    if len(body) > MOST_REQUEST_BYTES:
        raise CallError(f"fetch: the body is larger than {MOST_REQUEST_BYTES >> 20} MiB")
    return body


def _headers(given: object) -> dict[str, str]:
    headers: dict[str, str] = {}
    for pair in given if isinstance(given, Sequence) and not isinstance(given, str) else ():
        if isinstance(pair, Sequence) and len(pair) == 2:
            name, value = str(pair[0]), str(pair[1])
            if name.lower() not in _OURS:
                headers[name] = value
    return headers
