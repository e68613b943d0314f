"""Hides known secrets in texts that another party wrote: the answer of a server, the message of a driver. Pure.

A server may echo what it was sent, the token among it, and such a text goes into dead letters, logs and `/ready`. So it is masked
before it is kept, and before it is cut: half a secret would not be found any more.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, unquote, urlsplit

HIDDEN = "•••"
FEWEST = 6
"""Characters of a secret that is hidden. Shorter ones are in many words, which would tell more of them by being hidden."""

_TEMPLATE = re.compile(r"\{[{%#].*?[}%#]\}", re.DOTALL)
_PASSWORD = re.compile(r"\bpassword\s*=\s*(?:'([^']*)'|(\S+))", re.IGNORECASE)
_SCHEMES = frozenset({"bearer", "basic", "digest", "token", "apikey"})
_OPEN_HEADERS = frozenset({"accept", "accept-language", "content-type", "content-language", "user-agent", "x-requested-with"})
"""Headers that hold no secrets, though they stand among some that do."""


class Mask:
    """The secrets of one destination.

    Args:
        secrets: values of its secret options: texts, texts by name (headers), or lists of them.
        shown: values of its other options; what equals one of them is no secret.
    """

    def __init__(self, secrets: Iterable[Any], shown: Iterable[Any] = ()) -> None:
        self._open = {each for each in shown if isinstance(each, str)}
        self._forms: list[str] = []
        self._coded: list[bytes] = []
        self.add(secrets)

    def add(self, secrets: Iterable[Any]) -> None:
        """Hides more secrets from now on."""
        open_ = set(self._open)
        words = {word for value in secrets for word in _words(value, open_)}
        kept = {word for word in words if len(word) >= FEWEST and word not in open_ and word.lower() not in _SCHEMES}
        forms = {*self._forms, *(form for word in kept for form in _forms(word))}
        self._forms = sorted(forms, key=len, reverse=True)
        self._coded = [form.encode() for form in self._forms]

    def text(self, text: str) -> str:
        """Returns a text with the secrets hidden."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        return text

    def body(self, data: bytes) -> bytes:
        """Returns the bytes of an answer with the secrets hidden."""
        for form in self._coded:
            if form in data:
                data = data.replace(form, HIDDEN.encode())
        return data

    def error(self, error: BaseException) -> None:
        """Hides the secrets in all texts of an error, and of the errors that led to it: a traceback in a log shows these too."""
        known: set[int] = set()
        waiting: list[BaseException | None] = [error]
        while waiting:
            each = waiting.pop()
            if each is None or id(each) in known:
                continue
            known.add(id(each))
            waiting += [each.__cause__, each.__context__]
            if isinstance(each, BaseExceptionGroup):
                waiting += each.exceptions
            with contextlib.suppress(Exception):  # of a driver, which may allow no change
                each.args = tuple(self._any(value) for value in each.args)
            of_system = ("strerror", "filename", "filename2") if isinstance(each, OSError) else ()
            for name in (*getattr(each, "__dict__", ()), *of_system):
                with contextlib.suppress(Exception):
                    setattr(each, name, self._any(getattr(each, name)))

    def _any(self, value: Any, depth: int = 8) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.body(value)
        if not depth:
            return value
        if isinstance(value, Mapping):
            return {key: self._any(each, depth - 1) for key, each in value.items()} if type(value) is dict else value
        if isinstance(value, tuple):
            parts = [self._any(each, depth - 1) for each in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if type(value) is list:
            return [self._any(each, depth - 1) for each in value]
        return value


def _forms(word: str) -> Iterator[str]:
    """Yields the forms in which a secret comes back: as it is, in addresses, JSON and HTML, and as a part of base64 (RFC 7617)."""
    yield from (word, quote(word, safe=""), quote(word), quote_plus(word), html.escape(word))
    escaped = json.dumps(word)[1:-1]
    yield from (escaped, json.dumps(word, ensure_ascii=False)[1:-1], escaped.replace("/", "\\/"))
    data = word.encode("utf-8", "surrogatepass")
    for before in range(3):  # what stands before it in the coded text moves its bits
        coded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        kept = coded[(0, 2, 3)[before] : len(coded) if (before + len(data)) % 3 == 0 else -1]
        if len(kept) >= FEWEST:
            yield kept


def _words(value: Any, shown: set[str]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            if str(name).lower() not in _OPEN_HEADERS:
                yield from _words(each, shown)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _words(each, shown)
    elif isinstance(value, str):
        yield from _of_address(value, shown) if "://" in value or _PASSWORD.search(value) else _of_text(value)


def _of_text(value: str) -> Iterator[str]:
    for part in _TEMPLATE.split(value):
        yield part.strip()
        for word in part.split():
            yield word
            with contextlib.suppress(binascii.Error, ValueError):  # RFC 7617: user and password
                user, colon, password = base64.b64decode(word, validate=True).decode().partition(":")
                if colon and user.isprintable():
                    yield password


def _of_address(value: str, shown: set[str]) -> Iterator[str]:
    with contextlib.suppress(ValueError):
        parts = urlsplit(value)
        if parts.scheme in ("http", "https"):  # of a webhook, whose path is the secret
            shown.update(each for each in (parts.hostname,) if each)
            path = parts.path.strip("/")
            yield from (value, path, unquote(path), path.rpartition("/")[2])
            yield from (each for values in parse_qs(parts.query).values() for each in values)
        else:
            shown.update(each for each in (parts.username, parts.hostname, parts.path.strip("/")) if each)
        if parts.password:
            yield from (parts.password, unquote(parts.password))
        yield from parse_qs(parts.query).get("password", [])
    for match in _PASSWORD.finditer(value):
        yield match[1] or match[2]
