"""No plug-in of any kind tells a secret: planted in every option that is marked as one, against a server that tells all it was sent, and a closed port.

Parametrised over the registries: a new plug-in is tried without a line here.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml

from connector_runner.contract import Said, Selected, Source
from connector_runner.feeds.contract import Environment as FeedEnvironment
from connector_runner.feeds.registry import FEEDS, parse_feed
from connector_runner.feeds.registry import mask_of as mask_of_feed
from connector_runner.opened import opened
from connector_runner.registry import SOURCES
from loader.contract.events import EventDestination
from loader.delivery.destinations import Destinations, open_session
from loader.registry import DESTINATIONS, mask_of
from penstock.command.cli import run
from penstock.control.project.plan import compare, inline_secrets
from router.alerts.contract import Item, Message
from router.alerts.registry import CHANNELS, parse_alert
from router.alerts.send import open_sender
from shared.errors import ConfigError, PenstockError
from shared.plugins import Plugins, secret_options
from shared.scratch import Scratch
from shared.tasks import timeout
from shared.telemetry import logs
from shared.telemetry.counts import Uncounted
from tests.support.planting import PLAIN, PLANT, forms, planted
from tests.support.ports import free_port

PLUGINS: Mapping[str, Plugins[Any]] = {"destinations": DESTINATIONS, "connectors": SOURCES, "feeds": FEEDS, "alerts": CHANNELS}
CASES = [
    (kind, name) for kind, plugins in PLUGINS.items() for name in plugins.names() if secret_options(plugins.get(name).OPTIONS)
]
PATIENCE_SECONDS = 2.0
"""Of a driver that tries again and again; what it said until then is looked at."""
NOT_TAKEN = "the options are not taken:"
ORDER = {"messageId": "m1", "type": "track", "event": "Order", "userId": "u", "properties": {"total": 1}}


class _Echo(BaseHTTPRequestHandler):
    """Refuses, and tells what it was sent."""

    timeout = 0.5
    """Seconds, for clients that wait to be greeted."""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = json.dumps({"path": self.path, "headers": dict(self.headers), "body": body.decode("utf-8", "replace")}).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """All that is logged, as services write it, with every logger at its most talkative; and no name is found but this machine's."""
    written = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    find = socket.getaddrinfo

    def near(host: Any, *rest: Any, **more: Any) -> Any:
        if str(host) not in ("127.0.0.1", "localhost", "::1", "None"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name here")
        return find(host, *rest, **more)

    for index in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(index, "http://127.0.0.1:1/simple")
    monkeypatch.setattr(socket, "getaddrinfo", near)
    monkeypatch.setattr(sys, "stderr", written)
    logs.configure("test", "debug", "json")
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    for package in logs.OWN:
        logging.getLogger(package).setLevel(logging.NOTSET)


async def said_by(work: Callable[[], Awaitable[Any]]) -> str:
    """Returns the result or the error of a plug-in's work, with all that an error carries."""
    try:
        async with timeout(PATIENCE_SECONDS):
            return repr(await work())
    except PenstockError as exc:
        logging.getLogger("tests").error("failed", exc_info=exc if not isinstance(exc, ConfigError) else None)
        return f"{NOT_TAKEN if isinstance(exc, ConfigError) else ''} {exc} {vars(exc)!r}"
    except TimeoutError:
        return ""


async def of_destination(name: str, entry: dict[str, Any], _: Path) -> str:
    async def work() -> Any:
        async with Destinations(Uncounted(), Scratch()).use(name, entry) as destination:
            if isinstance(destination, EventDestination):
                return await destination.check(mask_of(entry))
            async with open_session(destination, "c", 1, entry) as session:
                return await session.marks()

    return await said_by(work)


async def of_connector(name: str, entry: dict[str, Any], folder: Path) -> str:
    heard: list[Said] = []

    async def work() -> Any:
        async with opened(name, entry, folder, heard.append) as source:
            checked = await source.check()
            return checked, await _read(source)

    return f"{await said_by(work)} {heard!r}"


async def _read(source: Source) -> Any:
    streams = await source.discover()
    selected = [Selected(stream, "full_refresh") for stream in streams[:1]]
    async with contextlib.aclosing(source.read(selected, {})) as messages:
        return [message async for message in messages]


async def of_feed(name: str, entry: dict[str, Any], _: Path) -> str:
    async def work() -> Any:
        try:
            plugin, _, options = parse_feed(name, entry)
            environment = FeedEnvironment(
                state=cast("Any", _NoState()), settle=_nothing, lost=lambda *_: None, unknown_error=lambda _: None
            )
            feed = await plugin.open_feed(name, options, environment)
            try:
                return await feed.read(1.0)
            finally:
                await feed.close()
        except PenstockError as exc:
            mask_of_feed(entry).error(exc)
            raise

    return await said_by(work)


class _NoState:
    """A bucket without values."""

    async def get(self, _: str) -> None:
        """Returns nothing."""


async def _nothing() -> None:
    """Settles nothing."""


async def of_alert(name: str, entry: dict[str, Any], _: Path) -> str:
    item = Item(key="connection c", kind="connection", status="failing", severity="critical", title="t", since=1.0)

    async def work() -> Any:
        async with open_sender() as sender:
            return await sender.send(parse_alert(name, entry), Message(id="m", alert=name, at=1.0, items=[item]))

    return await said_by(work)


WORK: Mapping[str, Callable[[str, dict[str, Any], Path], Coroutine[Any, Any, str]]] = {
    "destinations": of_destination, "connectors": of_connector, "feeds": of_feed, "alerts": of_alert,
}  # fmt: skip


def leaks(text: str, secret: str) -> list[str]:
    data = text.encode("utf-8", "replace")
    return [
        data[max(0, at - 300) : at + 200].decode("utf-8", "replace")
        for form in forms(secret)
        if (at := data.find(form)) >= 0
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["echo", "closed"])
@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}-{name}" for kind, name in CASES])
def test_a_planted_secret_is_told_by_nothing(
    kind: str, name: str, where: str, echo: int, told: io.StringIO, tmp_path: Path
) -> None:
    port = echo if where == "echo" else free_port()
    options = PLUGINS[kind].get(name).OPTIONS
    for secret in (PLANT, PLAIN):  # some options take no odd characters
        entry = planted(kind, name, options, port=port, secret=secret, folder=tmp_path)
        said = asyncio.run(WORK[kind](name, entry, tmp_path))
        assert leaks(said, secret) == []
        assert leaks(told.getvalue(), secret) == []
        if NOT_TAKEN not in said:
            return
    raise AssertionError(f"no planted entry is accepted: {said}")


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}-{name}" for kind, name in CASES])
def test_a_planted_secret_is_in_no_plan_check_or_explanation(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], echo: int
) -> None:
    monkeypatch.chdir(tmp_path)
    entry = planted(kind, name, PLUGINS[kind].get(name).OPTIONS, port=echo, secret=PLAIN, folder=tmp_path)
    document: dict[str, Any] = {"sites": {"shop": {"keys": [{"id": "k"}]}}, kind: {"one": entry}}
    changes = [*compare({}, document), *compare(document, {}), *compare(document, {**document, kind: {"one": {"type": name}}})]
    assert leaks(msgspec.json.encode(changes).decode(), PLAIN) == []
    assert inline_secrets(document)
    if kind == "destinations":
        document["connections"] = {"c": {"site": "shop", "destination": "one"}}
        (tmp_path / "penstock.yaml").write_text(yaml.safe_dump(document))
        (tmp_path / "event.json").write_text(json.dumps(ORDER))
        for command in (["explain", "event.json", "--site", "shop"], ["explain", "event.json", "--site", "shop", "--json"]):
            run(command)
        shown = "".join(capsys.readouterr())
        assert leaks(shown, PLAIN) == []
