"""The table template of a connection: Jinja, sandboxed, compiled once, asked once per event.

It sees `event`, the materialised event, and `site`, the site's name. Its text, trimmed, is the table's name before folding. An
empty text skips the event on purpose; an error, or a text no table could sensibly be named, is a dead letter. A key of the
event wins over a method of the same name: `event.properties.items` is the client's `items`.

The sandbox refuses private attributes and changes of its arguments; ranges, repetition and the length of the result are bounded.
Pure.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.errors import ConfigError, Problem
from shared.events.outcome import Dead, DeadReason, Drop, DropReason
from shared.reading.decode import meant

KNOWN = ("event", "site")
"""What a template sees."""
LONGEST_RESULT = 1000
LONGEST_REPETITION = 10_000


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with tighter bounds and keys before methods."""

    intercepted_binops = frozenset({"*", "**"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(side, (int, float)) and abs(side) < 2**63 for side in (left, right)):
            sizes = [len(side) if isinstance(side, (str, list, tuple)) else abs(side) for side in (left, right)]
            if operator == "**" or sizes[0] * sizes[1] > LONGEST_REPETITION:
                raise TemplateError(f"`{operator}` would make too large a value")
        return super().call_binop(context, operator, left, right)


class TableTemplate:
    """One connection's template.

    Raises:
        ConfigError: the template cannot be compiled; `path` says where it stands in the project file.
    """

    def __init__(self, source: str, path: str = "table") -> None:
        environment = _Environment(autoescape=False, finalize=_text)
        environment.globals["range"] = _short_range
        try:
            self._template = environment.from_string(source)
        except TemplateError as exc:
            line = getattr(exc, "lineno", None)
            raise ConfigError(
                [Problem(path, f"not a Jinja template: {exc.message}" + (f" (line {line})" if line else ""))]
            ) from exc
        unknown = sorted(find_undeclared_variables(environment.parse(source)) - {*KNOWN, *environment.globals})
        if unknown:
            raise ConfigError(
                [Problem(path, f"the template has no `{unknown[0]}`;{meant(unknown[0], KNOWN)} known: {', '.join(KNOWN)}")]
            )
        self._constant = source.strip() if not any(mark in source for mark in ("{{", "{%", "{#")) else None

    def table(self, event: dict[Any, Any], site: str) -> str | Drop | Dead:
        """Returns what the template says of an event."""
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


def _text(value: Any) -> Any:
    return "" if value is None or value is False else value


def _short_range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > LONGEST_REPETITION:
        raise OverflowError(f"range of more than {LONGEST_REPETITION} numbers")
    return numbers
