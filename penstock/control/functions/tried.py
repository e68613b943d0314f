"""Runs functions on one event here, without a stack: what comes out, what they log, ask and keep."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from functions_runtime.host.fetch import Fetcher
from functions_runtime.host.store import Store, kept_values
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate, Given
from functions_runtime.sandbox.chain import CallError, Chain
from functions_runtime.sandbox.guest import BrokenError, Code, Limits, Spec
from functions_runtime.settings import PREFIX, FunctionsSettings, guard_of
from penstock.control.functions.bucket import MemoryBucket
from shared.errors import ConfigError, Problem, SetupError
from shared.settings import read_settings

OWNER = "local"
_FATES = {wire.SAME: "unchanged", wire.OUTPUTS: "changed", wire.DROPPED: "dropped", wire.DEAD: "dead_letter"}


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an event. `result`: unchanged, changed, dropped or dead_letter."""

    result: str
    events: list[Any]
    """What goes on."""
    function: str = ""
    """Which one dropped it, or failed."""
    reason: str = ""
    errors: list[str] = []
    retry: str = ""
    logs: list[str] = []
    calls: list[str] = []
    store: dict[str, Any] = {}
    """What it keeps afterwards."""
    milliseconds: float = 0.0


class Together(msgspec.Struct, frozen=True, kw_only=True):
    """What became of events that went through the functions as one batch; `logs`, `calls` and `store` are those of all."""

    events: list[Tried]
    logs: list[str] = []
    calls: list[str] = []
    store: dict[str, Any] = {}
    milliseconds: float = 0.0


class _Person(msgspec.Struct):
    """The members by which events of one user are known."""

    userId: Any = None  # noqa: N815  # the event's own key
    anonymousId: Any = None  # noqa: N815
    messageId: Any = None  # noqa: N815


_read_person = msgspec.json.Decoder(_Person).decode


class LocalHost:
    """Answers what a function asks: the store's rules on a bucket in memory, and the network only where that is allowed."""

    def __init__(self, store: Mapping[str, Any] | None = None, fetcher: Fetcher | None = None) -> None:
        self.logs: list[str] = []
        self.calls: list[str] = []
        self._fetcher = fetcher
        self._bucket = MemoryBucket()
        self._store = Store(self._bucket, OWNER)
        for key, value in (store or {}).items():
            self._bucket.keep(*self._store.entry_of(key, value))

    @property
    def store(self) -> dict[str, Any]:
        """What is kept now."""
        return kept_values(self._bucket.values())

    async def call(self, op: str, args: Sequence[Any]) -> Any:
        """As `Host.call`."""
        if op != "fetch":
            self.calls.append(f"{op} {args[0]}")
            return await self._store.call(op, args)
        self.calls.append(f"fetch {args[0].get('url')}")
        if self._fetcher is None:
            raise CallError("fetch: nothing is sent here; allow it with --fetch")
        return await self._fetcher.fetch(args[0])

    def log(self, level: str, message: str) -> None:
        """As `Host.log`."""
        self.logs.append(f"{level:5} {message}")


class SilentHost(LocalHost):
    """A `LocalHost` for many events: keeps no lines, and counts the requests that it did not send."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0

    async def call(self, op: str, args: Sequence[Any]) -> Any:
        """As `Host.call`."""
        try:
            return await super().call(op, args)
        finally:
            self.calls.clear()
            self.unsent += op == "fetch"

    def log(self, level: str, message: str) -> None:
        """As `Host.log`."""


def read_code(files: Sequence[Path]) -> tuple[Code, ...]:
    """Reads the files of functions, named after them.

    Raises:
        SetupError: one cannot be read.
    """
    found: list[Code] = []
    for file in files:
        try:
            found.append(Code(file.name, file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as exc:
            raise SetupError(f"{file} cannot be read: {exc}") from exc
    return tuple(found)


def command_fetcher() -> Fetcher:
    """Returns what sends requests for a command: it may reach what functions_runtime may under this environment.

    Raises:
        ConfigError: a setting is wrong.
    """
    return Fetcher(guard_of(read_settings(FunctionsSettings, PREFIX)))


class Bench:
    """A chain that is tried; an async context manager.

    Args:
        shared: what `ctx` says of site, destination and connection, on top of what it says here.
        fetch: whether requests are really sent.
    """

    def __init__(
        self,
        code: tuple[Code, ...],
        *,
        shared: Mapping[str, Any] | None = None,
        on_error: str = "pass",
        limits: Limits = Limits(),  # noqa: B008  # frozen
        fetch: bool = False,
    ) -> None:
        here: dict[str, Any] = {"site": {"id": "local", "name": "local"}, "source": {"id": "local", "name": "local"}, "props": {}}
        here |= {"destination": {"id": "local", "type": "local"}, "connection": {"id": "local", "mode": "stream", "options": {}}}
        self._fetcher = command_fetcher() if fetch else None
        self._host = LocalHost()
        self._chain = Chain(Spec(code, {**here, **(shared or {})}, on_error, limits), self._host)

    async def __aenter__(self) -> Bench:
        try:
            await self._chain.ready()
        except BrokenError as exc:
            await self._chain.close()
            raise ConfigError(
                [
                    Problem(name, what + (f" (line {line}, column {column})" if line else ""))
                    for name, what, line, column in exc.problems
                ]
            ) from exc
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._chain.close()
        if self._fetcher is not None:
            await self._fetcher.close()

    async def try_out(
        self, event: bytes, *, store: Mapping[str, Any] | None = None, context: Mapping[str, Any] | None = None
    ) -> tuple[Fate, Tried]:
        """Runs an event, as JSON, through the chain; returns the sandbox's own answer, and what became of it.

        Args:
            store: the keys and values that the store holds before.
            context: members of `ctx` that come from the request: geo, ua, headers; `receivedAt` in milliseconds, `retries`.
        """
        fates, host, taken = await self._run([event], store, context)
        return fates[0], _tried(fates[0], event, host=host, milliseconds=taken)

    async def run_all(
        self, events: Sequence[bytes], *, store: Mapping[str, Any] | None = None, context: Mapping[str, Any] | None = None
    ) -> Together:
        """Runs events as one batch, as those of a frame; `store` and `context` as for `try_out`."""
        fates, host, taken = await self._run(events, store, context)
        each = [_tried(fate, event) for fate, event in zip(fates, events, strict=True)]
        return Together(events=each, logs=host.logs, calls=host.calls, store=host.store, milliseconds=taken)

    async def _run(
        self, events: Sequence[bytes], store: Mapping[str, Any] | None, context: Mapping[str, Any] | None
    ) -> tuple[list[Fate], LocalHost, float]:
        host = LocalHost(store, self._fetcher)
        self._chain.serve(host)
        told = dict(context or {})
        request = {"geo": {}, "ua": {}, "headers": {}, "receivedAt": time.time() * 1000, **told}
        retries = int(request.pop("retries", 0))
        users: dict[str, int] = {}
        given = [Given(event, user=users.setdefault(_user_of(event), len(users)), retries=retries) for event in events]
        began = time.perf_counter()
        fates = await self._chain.run([request], given)
        return fates, host, round((time.perf_counter() - began) * 1000, 2)


def _user_of(event: bytes) -> str:
    person = _read_person(event)
    return str(person.userId or person.anonymousId or person.messageId)


def _tried(fate: Fate, event: bytes, *, host: LocalHost | None = None, milliseconds: float = 0.0) -> Tried:
    outputs = [event] if fate.kind == wire.SAME else list(fate.outputs)
    message, function, dropped = fate.retry or ("", "", False)
    return Tried(
        result=_FATES[fate.kind],
        events=[msgspec.json.decode(output) for output in outputs],
        function=fate.function,
        reason=": ".join(filter(None, (fate.reason, fate.detail))),
        errors=[f"{name}: {words}" for name, words in fate.errors],
        retry=f"{function}: {message}" + (", nothing goes on now" if dropped else "") if function else "",
        logs=host.logs if host else [],
        calls=host.calls if host else [],
        store=host.store if host else {},
        milliseconds=milliseconds,
    )
