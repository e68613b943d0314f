"""Conditions on the events of dead letters, in the language of `where`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from router.rules.where import compile_where
from shared.errors import ConfigError, Permanent, Problem
from shared.events.dead import DeadLetter
from shared.events.event import facts_of, materialise
from shared.events.frame import Head

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def compile_conditions(where: object) -> Callable[[DeadLetter], bool]:
    """Returns a function that says whether the event of a letter meets conditions; bytes that are no JSON object meet none.

    Raises:
        ConfigError: the conditions are wrong, or there is none; each problem says where.
    """
    predicate = compile_where(where, "--where")
    if predicate is None:  # an empty variable of a script must not mean all letters
        raise ConfigError([Problem("--where", "expected a condition such as '{field: event, eq: Paid}', got none")])

    def meets(letter: DeadLetter) -> bool:
        try:
            event = _decode(letter.body)
            head = _head(letter, event)
            if letter.request is not None:
                event = materialise(letter.body, head, facts_of(letter.request))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Permanent):
            return False
        return predicate.on_event(head, event)

    return meets


def _head(letter: DeadLetter, event: dict[str, Any]) -> Head:
    """Returns the head of a letter's event; the edge made none for its letters."""

    def text(known: str | None, key: str) -> str | None:
        value = known if known is not None else event.get(key)
        return value if isinstance(value, str) else None

    return Head(
        message_id=text(letter.message_id, "messageId") or "",
        type=text(letter.type, "type") or "",
        event=text(letter.event, "event"),
        user_id=text(letter.user_id, "userId"),
        anonymous_id=text(letter.anonymous_id, "anonymousId"),
    )
