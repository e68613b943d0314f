"""A view: the part of an event that conditions look at, read without building the rest.

Conditions name their fields, so the decoder is told which keys to keep at the first two levels and skips all others, at a quarter
of what the full event costs. `read` gives an object in which every path of the view leads to what it leads to in the full event
(`shared.events.event.materialise`); draw no conclusion from other keys that it has or lacks. A view does not look closely at the
parts that it skips: an event that is damaged there is left to readers that need the whole event.

For values that the server makes or changes, a view must repeat the work of `materialise`. It does so for `context`, because
people filter by it. Conditions on the other keys (`shared.events.event.SERVER_KEYS`) read the full event, and so do conditions on
keys that are not ASCII, which the decoder does not find in a `TypedDict`.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable
from typing import Any

import msgspec

from shared.events.event import JSON, SERVER_KEYS, RequestFacts, materialise
from shared.events.frame import Head

Path = tuple[str, ...]


class View:
    """Made by `compile_view`. `paths` tells it from other views."""

    def __init__(self, paths: frozenset[Path], kept: dict[str, set[str] | None]) -> None:
        self.paths = paths
        fields = {root: Any if keys is None else _keep(dict.fromkeys(sorted(keys), Any)) | None for root, keys in kept.items()}
        self._decode: Any = msgspec.json.Decoder(_keep(fields)).decode
        self._context = sorted(kept.get("context") or ())

    def read(self, body: bytes, head: Head, facts: RequestFacts) -> JSON:
        """Returns the view of one event; do not change it.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError: the body, as far as the view looks at it, is not a JSON object.
        """
        try:
            event: JSON = self._decode(body)
        except msgspec.ValidationError:  # the path leads into a value that is no object
            return materialise(body, head, facts)
        if self._context:
            context = event.get("context")
            if context is None:
                context = event["context"] = {}
            for key in self._context:
                if key in facts.context:
                    context[key] = facts.context[key]
                elif key not in context and key in facts.fallback_context:
                    context[key] = facts.fallback_context[key]
        return event


def compile_view(paths: Iterable[Path]) -> View | None:
    """Returns the view of these paths; None if they need the full event."""
    wanted = frozenset(paths)
    kept: dict[str, set[str] | None] = {}
    for path in wanted:
        root, *deeper = path
        if root in SERVER_KEYS or path == ("context",) or not all(map(str.isascii, path[:2])):
            return None
        keys = kept.setdefault(root, set())
        if not deeper:
            kept[root] = None
        elif keys is not None:
            keys.add(deeper[0])
    return View(wanted, kept)


def _keep(fields: dict[str, Any]) -> Any:
    """Returns the type of an object that keeps only these keys, each optional."""
    make: Any = typing.TypedDict
    return make("Kept", fields, total=False)
