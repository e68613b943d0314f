"""Texts of calls from templates: rendered within bounds, and refused if they cannot be sent. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.reading.sandbox import compile_template, names_in

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKS = ("{{", "{%", "{#")


class TemplateFailed(ValueError):
    """A template raised an error for these events, or gave a text that cannot be sent."""


class Text:
    """A text that may be a template.

    Args:
        source: the user's text.
        known: the names that a template may use.
        most: the most characters of the result.

    Raises:
        ValueError: it cannot be compiled, or uses another name.
    """

    def __init__(self, source: str, known: Sequence[str], most: int) -> None:
        self.constant = not any(mark in source for mark in MARKS)
        self.names: frozenset[str] = frozenset()
        self._source = source
        self._most = most
        if not self.constant:
            self._template = compile_template(source, known)
            self.names = frozenset(names_in(source))

    def render(self, **values: Any) -> str:
        """Returns the text for these values.

        Raises:
            TemplateFailed: the template raised an error, or gave too long a text.
        """
        if self.constant:
            return self._source
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(**values):
                pieces.append(piece)
                size += len(piece)
                if size > self._most:
                    break
        except Exception as exc:  # any error of the template's own code concerns these events only
            raise TemplateFailed(f"{type(exc).__name__}: {str(exc)[:300]}") from exc
        if size > self._most:
            raise TemplateFailed(f"it gave more than {self._most} characters")
        return "".join(pieces)


def one_line(text: str) -> str:
    """Returns a text for a header or an address.

    Raises:
        TemplateFailed: it holds characters that would end a header.
    """
    if not text.isprintable():
        wrong = next(each for each in text if not each.isprintable())
        # the rest is not quoted: it may hold a token, and this text goes into dead letters
        raise TemplateFailed(f"it gave the character U+{ord(wrong):04X}, which cannot stand in a header")
    return text
