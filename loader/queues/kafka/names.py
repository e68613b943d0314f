"""Names of topics. https://github.com/apache/kafka/blob/4.0/clients/src/main/java/org/apache/kafka/common/internals/Topic.java Pure."""

from __future__ import annotations

import re

LONGEST = 249
_LEGAL = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)
OWN = "__"
"""Topics of the brokers themselves begin with it, such as `__consumer_offsets`."""


def wrong_with(topic: str) -> str:
    """Returns why events must not go to a topic of this name; empty if they may."""
    if not _LEGAL.fullmatch(topic) or topic in (".", ".."):
        return "a topic's name has letters, digits, `.`, `_` and `-` only"
    if len(topic) > LONGEST:
        return f"a topic's name has at most {LONGEST} characters"
    if topic.startswith(OWN):
        return f"topics that begin with `{OWN}` are the brokers' own"
    return ""


def require_topic(topic: str) -> None:
    """Checks a name.

    Raises:
        ValueError: no topic may have it.
    """
    if why := wrong_with(topic):
        raise ValueError(f"topic: {why}")
