"""The table template of a connection: Jinja in a sandbox, compiled once, rendered once per event.

It sees `event`, the materialised event, and `site`, the site's name. Its text, trimmed, is the table's name before folding. An
empty text skips the event on purpose; an error, or a text that is no sensible name, makes a dead letter.

The sandbox is `shared/reading/sandbox.py`; the length of the result is bounded. Pure.
"""

from __future__ import annotations

from typing import Any

from shared.errors import ConfigError, Problem
from shared.events.outcome import Dead, DeadReason, Drop, DropReason
from shared.reading.sandbox import compile_template

KNOWN = ("event", "site")
"""The names in a template."""
LONGEST_RESULT = 1000


class TableTemplate:
    """One connection's template.

    Raises:
        ConfigError: the template cannot be compiled; `path` is its place in the project file.
    """

    def __init__(self, source: str, path: str = "table") -> None:
        try:
            self._template = compile_template(source, KNOWN)
        except ValueError as exc:
            raise ConfigError([Problem(path, str(exc))]) from exc
        self._constant = source.strip() if not any(mark in source for mark in ("{{", "{%", "{#")) else None

    def table(self, event: dict[Any, Any], site: str) -> str | Drop | Dead:
        """Returns the template's text for an event."""
        if self._constant:
            return self._constant
        text = ""
        try:
            for piece in self._template.generate(event=event, site=site):
                text += piece
                if len(text) > LONGEST_RESULT:
                    return Dead(
                        DeadReason.TABLE_TEMPLATE_FAILED,
                        f"the table template gave more than {LONGEST_RESULT} characters; expected the name of a table",
                    )
        except Exception as exc:  # noqa: BLE001 - whatever the template's own code raises concerns this event only
            return Dead(DeadReason.TABLE_TEMPLATE_FAILED, f"the table template failed: {type(exc).__name__}: {str(exc)[:300]}")
        text = text.strip()
        return text or Drop(DropReason.TABLE_TEMPLATE_EMPTY)
