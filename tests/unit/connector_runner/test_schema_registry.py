"""The client of a schema registry, as far as no registry is needed."""

from __future__ import annotations

import pytest

from connector_runner.feeds.kinds.kafka.registry import Reference, Registry, Schema


async def test_schemas_that_need_each_other_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, asked = Registry("http://x", None, None, "feed"), list[str]()

    async def ask(path: str) -> Schema:
        asked.append(path)
        other = "b" if "/a%2F1/" in path else "a"
        return Schema("{}", references=[Reference(other, f"{other}/1", 1)])

    monkeypatch.setattr(registry, "_ask", ask)
    _, why = await registry.decode(b"\0\0\0\0\x01x")
    assert "a needs itself: a → b → a" in why
    assert asked == ["/schemas/ids/1", "/subjects/a%2F1/versions/1", "/subjects/b%2F1/versions/1"]
