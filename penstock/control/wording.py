"""Words for people: numbers with their noun, texts cut to a width, and the progress of a long step."""

from __future__ import annotations

from typing import Protocol


class Advance(Protocol):
    """Moves a progress bar: `done` so far, `note` beside it, `total` once known."""

    def __call__(self, done: int, *, note: str = "", total: int | None = None) -> None: ...


def counted(count: int, noun: str) -> str:
    """Returns `1 event`, `2 events`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def waits(events: int, how: str = "") -> str:
    """Returns `1 event waits`, `2 events wait`, `2 events still wait`."""
    return f"{counted(events, 'event')} {how}{'waits' if events == 1 else 'wait'}"


def cut(text: str, characters: int) -> str:
    """Returns a text of at most so many characters; `…` ends one that was longer."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
