"""Formats a dead letter: as JSON, as a line of an export, as the client's event."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import msgspec

from ingest.registry import protocol_of
from shared.errors import UNREADABLE
from shared.events.dead import DeadLetter


def as_json(letter_id: str, letter: DeadLetter) -> dict[str, Any]:
    """Returns a letter without its bytes."""
    fields = msgspec.to_builtins(letter, builtin_types=(bytes,))
    # the request may name people's addresses; its key tells whose mistake it is
    key = {"key": letter.request.key} if letter.request and letter.request.key else {}
    return {"id": letter_id, **{name: value for name, value in fields.items() if name not in ("body", "request")}, **key}


def body_of(letter: DeadLetter) -> dict[str, str]:
    """Returns the original bytes as `body`, or as `body_base64` if they are no text."""
    try:
        return {"body": letter.body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(letter.body).decode()}


def as_line(letter_id: str, letter: DeadLetter, *, events: bool) -> str | None:
    """Returns one line of JSON with the whole letter, or with `events` the client's event; None if that is not one line of text."""
    if not events:
        return msgspec.json.encode({**as_json(letter_id, letter), **body_of(letter)}, enc_hook=str).decode()
    if letter.stage == "ingest":  # with the facts from its path or protocol written in
        protocol = protocol_of(letter.request.protocol if letter.request else None)
        letter = msgspec.structs.replace(letter, body=protocol.as_event(letter.body, letter.form) or b"")
    text = body_of(letter).get("body", "").strip()
    if "\n" in text or "\r" in text:
        with contextlib.suppress(*UNREADABLE):
            text = msgspec.json.format(text, indent=-1)  # this changes only the space between tokens
    return text if text and "\n" not in text and "\r" not in text else None


def pretty(text: str) -> str:
    """Returns JSON indented, and any other text as it is."""
    with contextlib.suppress(*UNREADABLE):
        return msgspec.json.format(text)
    return text
