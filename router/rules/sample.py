"""Sampling that is stable per user: a user is wholly in or wholly out, on every machine and after every restart.

A user's place is a number in [0, 1) computed from `Head.user_key`; a share keeps the users below it. So a larger share keeps
every user that a smaller one kept. Events without a user are placed by their message id.
"""

from __future__ import annotations

from zlib import crc32

from shared.events.frame import Head

_RANGE = 2**32


def place(user_key: str) -> float:
    """Returns a user's place in [0, 1)."""
    # a lone surrogate has no UTF-8, but a place like any other text
    return crc32(user_key.encode("utf-8", "surrogatepass")) / _RANGE


def is_kept(head: Head, share: float) -> bool:
    """Whether the user of an event is in the `share` that is kept."""
    return place(head.user_key) < share
