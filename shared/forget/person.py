"""A person as a request to forget names them: whether an event, a dead letter or a line is theirs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from shared.errors import Permanent
from shared.events.dead import DeadLetter
from shared.events.frame import Head, decode_frame, decode_heads
from shared.forget.ids import SALT_BYTES, Forgotten, digest, listed

HIDDEN = "(id)"
FEWEST = 4
"""Characters of an id that is hidden inside of a word too."""

_SALT = bytes(SALT_BYTES)
_RUN = re.compile(rb"[\w.@-]+")


class Person:
    """The ids of a request, as a list in memory and as words."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.ids = Forgotten()
        for name in names:
            self.ids.put(digest(name, _SALT), listed(name, _SALT, at=0.0, request=""))
        written = [msgspec.json.encode(name)[1:-1] for name in names]
        self._plain = {each for each in written if _RUN.fullmatch(each)}
        others = [re.escape(each) for each in written if each not in self._plain]
        self._others = re.compile(rb"(?<![\w.@-])(?:" + b"|".join(others) + rb")(?![\w@-])") if others else None

    def events_in(self, payload: bytes) -> int:
        """Returns how many events of a frame are of the person; 0 if it is no frame."""
        try:
            return len(self.ids.find(decode_heads(payload), lambda: decode_frame(payload).bodies()))
        except Permanent:
            return 0

    def has_event(self, head: Head, body: bytes) -> bool:
        """Whether an event is of the person."""
        return bool(self.ids.find([head], lambda: [body]))

    def has_letter(self, letter: DeadLetter) -> bool:
        """Whether a dead letter is of the person."""
        named = {letter.user_id, letter.anonymous_id} & set(self.names)
        return bool(named) or self.ids.is_in(letter.body)

    def is_named(self, payload: bytes) -> bool:
        """Whether a text names an id as a word, as JSON writes it."""
        if self._others is not None and self._others.search(payload):
            return True
        return any(word in self._plain for run in _RUN.findall(payload) for word in _words(run))


def hide(text: str, names: Sequence[str]) -> str:
    """Returns a text without the ids: the errors of a database may repeat what it was asked."""
    for name in sorted(names, key=len, reverse=True):
        if name in text:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)" if len(name) < FEWEST else re.escape(name), HIDDEN, text)
    return text


def _words(run: bytes) -> Iterator[bytes]:
    """Yields a run of letters, and its beginnings up to each dot: a sentence may end with an id."""
    yield run
    end = run.rfind(b".")
    while end > 0:
        yield run[:end]
        end = run.rfind(b".", 0, end)
