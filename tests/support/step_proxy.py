"""An HTTP proxy that calls an action around one of the requests that pass, so that a client is killed between two of its steps.

`before`: the request is never forwarded. `behind`: it is done, and its client hears nothing. `late`: it was on its way when the client
died, and is forwarded in the midst of its successor's requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Literal

import aiohttp
import yarl
from aiohttp import web

MEGABYTE = 1024 * 1024
LATE_BY = 9
"""Requests of a successor that overtake a late one."""
OF_ONE_HOP = frozenset({"connection", "transfer-encoding", "content-length", "host", "keep-alive"})

Side = Literal["before", "behind", "late"]


class StepProxy:
    """Forwards to `url` while its context is open; `port` is where it listens."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._trigger: tuple[int, Side, Callable[[], None]] | None = None
        self._late: tuple[int, asyncio.Event] | None = None
        self.port = 0
        self.steps = 0
        """Requests that came."""

    async def __aenter__(self) -> StepProxy:
        self._client = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(force_close=True))
        application = web.Application(client_max_size=1024 * MEGABYTE)
        application.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._let_late_go()
        await self._runner.cleanup()
        await self._client.close()

    @property
    def armed(self) -> bool:
        """Whether the action is still to be called."""
        return self._trigger is not None

    def at(self, step: int, side: Side, action: Callable[[], None]) -> None:
        """Calls `action` once, at the request that is `step` ahead (1: the next one)."""
        self._trigger = (self.steps + step, side, action)

    def _is_due(self, step: int, *sides: Side) -> bool:
        return self._trigger is not None and self._trigger[0] <= step and self._trigger[1] in sides

    def _act(self) -> None:
        assert self._trigger is not None
        action, self._trigger = self._trigger[2], None
        action()

    def _let_late_go(self) -> None:
        if self._late is not None:
            self._late[1].set()
            self._late = None

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.steps += 1
        step = self.steps
        if self._late is not None and self._late[0] <= step:
            self._let_late_go()
        if self._is_due(step, "late"):
            self._act()
            arrived = asyncio.Event()
            self._late = (step + LATE_BY, arrived)
            await asyncio.shield(self._send(request, body, arrived))
            raise web.HTTPBadGateway
        if self._is_due(step, "before"):
            self._act()
            raise web.HTTPBadGateway
        answer = await self._send(request, body)
        if self._is_due(step, "behind"):
            self._act()
        return answer

    async def _send(self, request: web.Request, body: bytes, when: asyncio.Event | None = None) -> web.Response:
        if when is not None:
            await when.wait()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in OF_ONE_HOP}
        url = yarl.URL(self._url + request.raw_path, encoded=True)
        try:
            async with self._client.request(request.method, url, headers=headers, data=body) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in OF_ONE_HOP}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
        except aiohttp.ClientError as exc:
            if request.transport is not None:
                request.transport.abort()  # as the server's did
            raise web.HTTPBadGateway(text=str(exc)) from exc
