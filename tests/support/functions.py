"""Chains of functions for tests: a real sandbox, and a host whose calls and lines can be looked at."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from functions_runtime.sandbox.batch import Fate, Given
from functions_runtime.sandbox.chain import CallError, Chain
from functions_runtime.sandbox.guest import Code, Guest, Limits, Spec

REQUESTS = [
    {
        "receivedAt": 1_767_225_600_000,
        "geo": {"country": "DE"},
        "ua": {"browser": "Firefox"},
        "headers": {"referer": "https://a.example"},
    }
]
SHARED = {
    "site": {"id": "shop", "name": "shop"},
    "source": {"id": "shop", "name": "shop"},
    "destination": {"id": "wh", "type": "duckdb"},
    "connection": {"id": "shop-wh", "mode": "batch", "options": {}},
    "props": {"GREETING": "hello"},
}
BAD, EVENTS = 7, 20
"""Which event of a batch is the odd one, and how many there are."""


class Recorder:
    """A host that notes what it is asked; `answer` says what comes back."""

    def __init__(self, answer: Callable[[str, Sequence[Any]], Any] = lambda _op, _args: None) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.lines: list[tuple[str, str]] = []
        self._answer = answer

    async def call(self, op: str, args: Sequence[Any]) -> Any:
        """As `Host.call`."""
        self.calls.append((op, list(args)))
        await asyncio.sleep(0)
        answer = self._answer(op, args)
        if isinstance(answer, CallError):
            raise answer
        return await answer if isinstance(answer, Awaitable) else answer

    def log(self, level: str, message: str) -> None:
        """As `Host.log`."""
        self.lines.append((level, message))


def spec_of(*code: str, on_error: str = "pass", **limits: Any) -> Spec:
    """Returns a chain of functions `f0`, `f1`, …"""
    return Spec(tuple(Code(f"f{number}", text) for number, text in enumerate(code)), SHARED, on_error, Limits(**limits))


@contextlib.asynccontextmanager
async def chain_of(
    *code: str,
    host: Recorder | None = None,
    on_error: str = "pass",
    start: Callable[[Spec], Awaitable[Guest]] = Guest.start,
    ended: list[str] | None = None,
    **limits: Any,
) -> AsyncIterator[Chain]:
    """Gives a chain with a sandbox of its own. `ended` gets the reasons why sandboxes ended."""
    reasons = [] if ended is None else ended
    chain = Chain(spec_of(*code, on_error=on_error, **limits), host or Recorder(), start=start, on_ended=reasons.append)
    try:
        yield chain
    finally:
        await chain.close()


def event(number: int = 0, **members: Any) -> dict[str, Any]:
    """Returns a track event."""
    return {"type": "track", "event": "Order", "messageId": f"m{number}", "userId": f"u{number % 5}", "n": number, **members}


def events(amount: int = EVENTS, bad: int = BAD) -> list[Given]:
    """Returns events of which one says `bad`."""
    return [Given(json.dumps(event(number, bad=number == bad)).encode(), 0, number % 5) for number in range(amount)]


async def run_one(chain: Chain, **members: Any) -> Fate:
    """Runs one event."""
    return (await chain.run(REQUESTS, [Given(json.dumps(event(**members)).encode())]))[0]


def outputs(fate: Fate) -> list[dict[str, Any]]:
    """Returns the events that an event became."""
    return [json.loads(each) for each in fate.outputs]
