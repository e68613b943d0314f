"""Runs functions on one event here, without a stack: what comes out, what they log, ask and keep."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from functions_runtime.host.fetch import Fetcher
from functions_runtime.host.guard import Guard
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate, Given
from functions_runtime.sandbox.chain import CallError, Chain
from functions_runtime.sandbox.guest import BrokenError, Code, Limits, Spec
from shared.errors import ConfigError, Problem, SetupError

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


class LocalHost:
    """Answers what a function asks: a store in memory, and the network only where that is allowed."""

    def __init__(self, store: Mapping[str, Any] | None = None, fetcher: Fetcher | None = None) -> None:
        self.store: dict[str, Any] = dict(store or {})
        self.ttl: dict[str, object] = {}
        self.logs: list[str] = []
        self.calls: list[str] = []
        self._fetcher = fetcher

    async def call(self, op: str, args: Sequence[Any]) -> Any:
        """As `Host.call`."""
        self.calls.append(f"{op} {args[0].get('url') if op == 'fetch' else args[0]}")
        if op == "fetch":
            if self._fetcher is None:
                raise CallError("fetch: nothing is sent here; allow it with --fetch")
            return await self._fetcher.fetch(args[0])
        key = str(args[0])
        match op:
            case "get":
                return self.store.get(key)
            case "getWithTTL":
                return {"value": self.store[key], "ttl": self.ttl.get(key, -1)} if key in self.store else None
            case "ttl":
                return self.ttl.get(key, -1) if key in self.store else -2
            case "del":
                self.store.pop(key, None)
                return None
            case "add" if key in self.store:
                return self.store[key]
            case _:
                self.store[key] = args[1]
                return args[1] if op == "add" else None

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
        self._fetcher = Fetcher(Guard()) if fetch else None
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

    async def run(
        self, event: bytes, *, store: Mapping[str, Any] | None = None, context: Mapping[str, Any] | None = None
    ) -> Tried:
        """Runs an event, as JSON, through the chain.

        Args:
            store: the keys and values that the store holds before.
            context: members of `ctx` that come from the request: geo, ua, headers; `receivedAt` in milliseconds, `retries`.
        """
        return (await self.try_out(event, store=store, context=context))[1]

    async def try_out(
        self, event: bytes, *, store: Mapping[str, Any] | None = None, context: Mapping[str, Any] | None = None
    ) -> tuple[Fate, Tried]:
        """As `run`; returns the sandbox's own answer too."""
        host = LocalHost(store, self._fetcher)
        self._chain.serve(host)
        told = dict(context or {})
        request = {"geo": {}, "ua": {}, "headers": {}, "receivedAt": time.time() * 1000, **told}
        retries = int(request.pop("retries", 0))
        began = time.perf_counter()
        fate = (await self._chain.run([request], [Given(event, retries=retries)]))[0]
        taken = (time.perf_counter() - began) * 1000
        return fate, _tried(fate, event, host, taken)


def _tried(fate: Fate, event: bytes, host: LocalHost, milliseconds: float) -> Tried:
    outputs = [event] if fate.kind == wire.SAME else list(fate.outputs)
    message, function, dropped = fate.retry or ("", "", False)
    return Tried(
        result=_FATES[fate.kind],
        events=[msgspec.json.decode(output) for output in outputs],
        function=fate.function,
        reason=": ".join(filter(None, (fate.reason, fate.detail))),
        errors=[f"{name}: {words}" for name, words in fate.errors],
        retry=f"{function}: {message}" + (", nothing goes on now" if dropped else "") if function else "",
        logs=host.logs,
        calls=host.calls,
        store=host.store,
        milliseconds=round(milliseconds, 2),
    )
