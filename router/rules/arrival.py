"""An arrival: one frame of EVENTS, opened only as far as a caller asks.

Ids cost 0.08 µs an event, heads 0.2, bodies and their JSON several. All connections of a site share the arrival, so each cost is
paid once, and so is the encoding of a selection that several connections have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from router.rules.view import Path, View
from shared.events.event import JSON, RequestFacts, facts_of, materialise
from shared.events.frame import (
    Frame,
    Head,
    Names,
    RequestContext,
    decode_frame,
    decode_heads,
    encode_frame,
    read_heads,
    read_ids,
    select,
)
from shared.forget.ids import Forgotten

if TYPE_CHECKING:
    from router.rules.gate import Gated


class Arrival:
    """A frame at its place in EVENTS.

    Args:
        seq: sequence in EVENTS.
        at_seconds: when EVENTS stored it (epoch).
        payload: the frame.
        with_heads: a caller will want the heads; then the ids are taken from them.

    Raises:
        Permanent: not a frame. All methods raise it too, if the frame is damaged deeper inside.
    """

    __slots__ = (
        "_bodies",
        "_events",
        "_facts",
        "_forgotten",
        "_frame",
        "_heads",
        "_rewritten",
        "_selections",
        "_views",
        "at_seconds",
        "gated",
        "ids",
        "names",
        "payload",
        "repeated",
        "seq",
        "trace",
    )

    def __init__(self, seq: int, at_seconds: float, payload: bytes, *, with_heads: bool = False) -> None:
        self.seq = seq
        self.at_seconds = at_seconds
        self.payload = payload
        self._heads: list[Head] | None = None
        self.ids: Sequence[str]
        self.names: Names
        """As the frame tells them; empty if it does not."""
        if with_heads:
            self._heads, self.names = read_heads(payload)
            self.ids = [head.message_id for head in self._heads]
        else:
            self.ids, self.names = read_ids(payload)
        self.trace: Mapping[str, str] = {}
        """Headers of the trace the frame belongs to."""
        self.repeated: Sequence[int] = ()
        """Indexes, ascending, of the events that the site has seen before."""
        self.gated: Gated | None = None
        """What the site's gate says to its events, once it was asked: all connections hear the same."""
        self._forgotten: frozenset[int] | None = None
        self._frame: Frame | None = None
        self._facts: list[RequestFacts] | None = None
        self._bodies: list[bytes] | None = None
        self._events: dict[int, JSON] = {}
        self._views: dict[frozenset[Path], dict[int, JSON]] = {}
        self._rewritten = False
        self._selections: dict[tuple[int, ...], bytes] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def heads(self) -> list[Head]:
        """The heads of all events."""
        if self._heads is None:
            self._heads = decode_heads(self.payload)
        return self._heads

    @property
    def bodies(self) -> list[bytes]:
        """The clients' bytes of all events."""
        if self._bodies is None:
            self._bodies = self._opened().bodies()
        return self._bodies

    @property
    def requests(self) -> list[RequestContext]:
        """The requests that the heads refer to."""
        return self._opened().requests

    @property
    def facts(self) -> list[RequestFacts]:
        """The server's facts, by request."""
        if self._facts is None:
            self._facts = [facts_of(request) for request in self._opened().requests]
        return self._facts

    def event(self, index: int) -> JSON:
        """Returns the canonical event; do not change it, other connections share it.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError: the body is not a JSON object.
        """
        event = self._events.get(index)
        if event is None:
            head = self.heads[index]
            event = self._events[index] = materialise(self.bodies[index], head, self.facts[head.request])
        return event

    def forgotten(self, ids: Forgotten) -> frozenset[int]:
        """Returns the indexes of events of forgotten people; asks once, so that all connections of the site hear the same."""
        if self._forgotten is None:
            self._forgotten = frozenset(ids.find(self.heads, lambda: self.bodies))
        return self._forgotten

    def looking(self, view: View | None) -> Callable[[int], JSON]:
        """Returns a function from an index to the canonical event, as far as a view shows it, or all of it (None).

        The function raises as `event` does.
        """
        if view is None:
            return self.event
        events, seen = self._events, self._views.setdefault(view.paths, {})
        heads, bodies, facts, read = self.heads, self.bodies, self.facts, view.read

        def look(index: int) -> JSON:
            event = seen.get(index)
            if event is None:
                event = events.get(index)
            if event is None:
                head = heads[index]
                event = seen[index] = read(bodies[index], head, facts[head.request])
            return event

        return look

    def rewrite(self, index: int, body: bytes) -> None:
        """Puts other bytes in place of an event's body, for all connections of the site."""
        if not self._rewritten:
            self._rewritten, self._bodies = True, list(self.bodies)
        self.bodies[index] = body
        self._events.pop(index, None)
        for seen in self._views.values():
            seen.pop(index, None)

    def payload_of(self, indexes: Sequence[int] | None) -> bytes:
        """Returns a frame with the events at `indexes`; None: all of them, as this frame's own bytes unless one was rewritten."""
        if indexes is None and not self._rewritten:
            return self.payload
        key = tuple(range(len(self)) if indexes is None else indexes)
        payload = self._selections.get(key)
        if payload is None:
            payload = self._selections[key] = encode_frame(select(self._opened(), key, self.bodies))
        return payload

    def _opened(self) -> Frame:
        if self._frame is None:
            self._frame = decode_frame(self.payload)
        return self._frame
