"""What a function may ask of its store wrongly, and values that are damaged: each is an error of the call, with words for its author."""

from __future__ import annotations

from typing import Any

import pytest

from functions_runtime.host.store import Store
from functions_runtime.sandbox.chain import CallError
from shared.jetstream.kv import Entry


class _Entries:
    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    async def get(self, key: str) -> Entry | None:
        return Entry(key, self.held[key], 1) if key in self.held else None

    async def put(self, key: str, value: bytes, *, revision: int | None = None, ttl_seconds: float | None = None) -> int:
        self.held[key] = value
        return 1

    async def erase(self, revision: int) -> None:
        self.held.clear()


@pytest.mark.parametrize(
    ("op", "args", "words"),
    [
        ("set", ["k"], "set takes a key and a value"),
        ("add", ["k"], "add takes a key and a value"),
        ("swap", ["k", 1], "swap takes a key, a value, a time and the revision"),
        ("swap", ["k", 1, None, "x"], "swap takes a key, a value, a time and the revision"),
        ("set", ["k", "\ud800"], "has no JSON"),
    ],
)
async def test_a_call_that_lacks_something_is_an_error_of_the_function(op: str, args: list[Any], words: str) -> None:
    with pytest.raises(CallError, match=words):
        await Store(_Entries(), "c").call(op, args)


async def test_a_damaged_value_is_an_error_of_the_call_until_it_is_set_anew() -> None:
    entries = _Entries()
    store = Store(entries, "c")
    await store.call("set", ["k", 1])
    (place,) = entries.held
    for damaged in (b"{", b'["\xff",0,1]'):
        entries.held[place] = damaged
        with pytest.raises(CallError, match="the value of 'k' is damaged"):
            await store.call("get", ["k"])
        await store.call("set", ["k", 2])
        assert await store.call("get", ["k"]) is not None
