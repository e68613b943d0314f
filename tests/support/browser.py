"""Headless Chromium, driven by Playwright, and pages on loopback that it opens."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page, Route, async_playwright

from tests.support.ports import free_port

# without these a closed network makes Chromium wait for hosts of Google
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP *.shop.test 127.0.0.1")  # fmt: skip
PATIENCE_MILLISECONDS = 60_000


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Runs Chromium; each `new_page` is a visitor of its own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("Chromium is not installed, so browsers cannot be tested; get it with: make test-servers")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=list(FLAGS), timeout=PATIENCE_MILLISECONDS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Pages:
    """A web server: pages by path, and files of folders by prefix. `asked`: the paths that browsers asked for."""

    port: int
    pages: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The origin of the pages."""
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answers a browser."""
        self.asked.append(request.path_qs)
        page = self.pages.get(request.path)
        if page is not None:
            kind = "text/javascript" if request.path.endswith(".js") else "text/html"
            return web.Response(text=page, content_type=kind)
        for prefix, folder in self.folders.items():
            file = folder / request.path.removeprefix(prefix)
            if request.path.startswith(prefix) and file.is_file():
                return web.FileResponse(file)
        return web.Response(status=404)


@contextlib.asynccontextmanager
async def pages(content: Mapping[str, str], folders: Mapping[str, Path] | None = None) -> AsyncIterator[Pages]:
    """Serves pages on a port of its own."""
    served = Pages(free_port(), dict(content), dict(folders or {}))
    app = web.Application()
    app.router.add_get("/{path:.*}", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", served.port).start()
    try:
        yield served
    finally:
        await runner.cleanup()


async def opened(browser: Browser, url: str, problems: list[str], scripts: Mapping[str, str] | None = None) -> Page:
    """Opens a page in a new visitor's context.

    Args:
        problems: takes the errors of its scripts.
        scripts: what the browser gets for some addresses, in place of their servers.
    """
    context = await browser.new_context()
    for address, text in (scripts or {}).items():
        await context.route(address, _script(text))
    page = await context.new_page()
    page.set_default_timeout(PATIENCE_MILLISECONDS)
    page.on("pageerror", lambda error: problems.append(str(error)))
    await page.goto(url)
    return page


def _script(text: str) -> Callable[[Route], Awaitable[None]]:
    async def fulfil(route: Route) -> None:
        await route.fulfill(body=text, content_type="text/javascript")

    return fulfil
