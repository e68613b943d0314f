"""The body of Jitsu's SDKs for mobile devices: `{"template": {…}, "events": [{…}, …]}`. Pure.

Each event gets all members of the template, and these win over its own, as Jitsu's server has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ingest.judge.forms.rewrite import Members

_members = msgspec.json.Decoder(Members).decode
_encode = msgspec.json.Encoder().encode


def is_template(members: Members) -> bool:
    """Whether a body has this form; any other object is one event."""
    template, events = members.get("template"), members.get("events")
    return template is not None and events is not None and bytes(template)[:1] == b"{" and bytes(events)[:1] == b"["


def merged_bytes(events: Sequence[bytes | msgspec.Raw], template: Members) -> int:
    """Returns the size that all events have together with the template in each."""
    shared = sum(len(name) + len(bytes(value)) + 4 for name, value in template.items())
    return shared * len(events) + sum(map(len, events))


def merged(events: Sequence[bytes | msgspec.Raw], template: Members, event_bytes: int) -> Iterator[bytes]:
    """Yields each event with the template; one that cannot be read, or is larger than `event_bytes`, as it came."""
    for event in events:
        whole: dict[str, Any] | None = None
        if len(event) <= event_bytes:
            try:
                whole = _members(event)
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                whole = None
        yield bytes(event) if whole is None else _encode({**whole, **template})
