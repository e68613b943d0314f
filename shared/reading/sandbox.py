"""Templates that people write, in Jinja's sandbox with tighter bounds.

The sandbox refuses private attributes and changes of its arguments; ranges and repetition are bounded. A key of an event wins
over a method of the same name: `event.properties.items` is the client's `items`. The caller bounds the length of a rendered text.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from jinja2 import Template, TemplateError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.reading.decode import meant

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


_ENCODER = msgspec.json.Encoder(decimal_format="number")


def compile_template(source: str, known: Sequence[str]) -> Template:
    """Returns a template.

    Args:
        source: its text.
        known: the names that the template may use.

    Raises:
        ValueError: it cannot be compiled, or uses another name; says where.
    """
    environment = _Environment(autoescape=False, finalize=_text)
    environment.globals["range"] = _short_range
    environment.policies["json.dumps_function"] = _json
    try:
        template = environment.from_string(source)
    except TemplateError as exc:
        line = getattr(exc, "lineno", None)
        raise ValueError(f"not a Jinja template: {exc.message}" + (f" (line {line})" if line else "")) from exc
    unknown = sorted(find_undeclared_variables(environment.parse(source)) - {*known, *environment.globals})
    if unknown:
        raise ValueError(f"the template has no `{unknown[0]}`;{meant(unknown[0], known)} known: {', '.join(known)}")
    return template


def names_in(source: str) -> set[str]:
    """Returns the names that a template uses and does not set; the template compiles."""
    return find_undeclared_variables(_Environment().parse(source))


def _json(value: Any, **_: Any) -> str:
    return _ENCODER.encode(value).decode()


def _text(value: Any) -> Any:
    return "" if value is None or value is False else value


def _short_range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > LONGEST_REPETITION:
        raise OverflowError(f"range of more than {LONGEST_REPETITION} numbers")
    return numbers
