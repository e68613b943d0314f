"""Hydration: which address has the rest of a delivery, and what an event gets of the answer. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit

from functions_runtime.rules.joining import key_text
from shared.events.event import JSON
from shared.events.frame import RequestContext
from shared.events.outcome import Dead, DeadReason
from shared.project.webhooks.hydrate import PLACE, Hydrate

PROTOCOL = "webhook"
MARK = "hydration"
"""Member of `context.webhook` that says what became of it; the edge writes `context.webhook`, so no sender does."""
MOST_VALUE_CHARACTERS = 512
MOST_URL_CHARACTERS = 4096
PREFIX = "hydrate."
UNASKED = "unasked."
"""Before the name of a webhook: under the first tries are counted, under the second events wait without a try."""
Kind = Literal["ok", "missing", "again", "failed"]


class Ask(NamedTuple):
    """A GET: for which webhook, and its address."""

    webhook: str
    url: str


class Answer(NamedTuple):
    """What came of a GET. `value`: the JSON of an answer that is `ok`. `words`: what was wrong, without anything of the address but its host.

    `kind`: ok, missing, again (nothing came that would not come later), failed (it stays so). `after`: the seconds for which it must not be asked.
    `unasked`: no request was sent, since an earlier answer asked to wait.
    """

    kind: Kind
    status: int = 0
    value: Any = None
    words: str = ""
    after: float = 0.0
    unasked: bool = False


class Wait(NamedTuple):
    """The event must come again, in `after` seconds at the earliest; `function` is the name under which tries are counted."""

    message: str
    function: str
    after: float = 0.0


Hydrates = Callable[[JSON, RequestContext, Callable[[JSON], object] | None], "bool | Dead | Wait"]
"""Puts into an event what its address answered, as `Hydration` does."""


class Hydration:
    """What the webhooks of a connection's site add to a frame's events.

    Args:
        wanted: by webhook.
        answers: by what was asked; None: nothing was asked yet, `asks` collects what must be.
        failures: how often the events of the frame had failed before.
    """

    def __init__(self, wanted: Mapping[str, Hydrate], answers: Mapping[Ask, Answer] | None, failures: int = 0) -> None:
        self.asks: dict[Ask, None] = {}
        self.results: Counter[tuple[str, str]] = Counter()
        """Events by webhook and by what became of them: ok, missing, again, failed."""
        self._wanted, self._answers, self._failures = wanted, answers, failures

    def __call__(self, event: JSON, request: RequestContext, clean: Callable[[JSON], object] | None) -> bool | Dead | Wait:
        """Adds to an event, in place; returns whether it changed, why it is dead, or that it must wait.

        Args:
            clean: what privacy rules do to what is added, for an event that passed them before.
        """
        about = _at(event, ("context", PROTOCOL))
        if request.protocol != PROTOCOL or not isinstance(about, dict) or MARK in about:
            return False
        name = about.get("name")
        hydrate = self._wanted.get(name) if isinstance(name, str) else None
        if hydrate is None or not isinstance(name, str):
            return False
        found = address_of(hydrate, event.get("properties"), packed=about.get("packed") is True)
        if found is None:
            return False
        if isinstance(found, Answer):
            answer = found
        elif self._answers is None:
            self.asks[Ask(name, found)] = None
            return Wait("", "")
        else:
            answer = self._answers.get(Ask(name, found), Answer("again", words="it was not asked"))
        return self._settled(answer, name, hydrate, event=event, about=about, clean=clean)

    def _settled(
        self, answer: Answer, name: str, hydrate: Hydrate, *, event: JSON, about: JSON, clean: Callable[[JSON], object] | None
    ) -> bool | Dead | Wait:
        kind: Kind = answer.kind
        mark = JSON(status=answer.status) if answer.status else JSON()
        if kind == "missing" and hydrate.missing == "again":
            kind = "again"
        is_try = not answer.unasked or not hydrate.delays
        if kind == "again" and is_try and self._failures >= len(hydrate.delays):
            kind = "failed"
        self.results[name, kind] += 1
        if kind == "again":
            return Wait(f"webhook {name}: {answer.words}", f"{PREFIX if is_try else UNASKED}{name}", answer.after)
        if kind == "ok":
            _put(event, hydrate.into_path, answer.value, clean)
        elif (hydrate.missing if kind == "missing" else hydrate.failed) == "dead_letter":
            return Dead(DeadReason.HYDRATION_FAILED, f"webhook {name}: {answer.words}")
        elif kind == "failed":
            mark["failed"] = answer.words
        about[MARK] = mark
        return True


def address_of(hydrate: Hydrate, properties: object, *, packed: bool) -> str | Answer | None:
    """Returns the address for a payload; None: it lacks a value, so there is nothing to ask; an answer: the value makes no address."""
    payload = properties.get("data") if packed and isinstance(properties, dict) else properties
    values: dict[str, str] = {}
    for place in PLACE.findall(hydrate.url):
        value = key_text(_value(payload, place))
        if not value:
            return None
        if len(value) > (MOST_URL_CHARACTERS if hydrate.is_whole else MOST_VALUE_CHARACTERS):
            return Answer("failed", words=f"{{{place}}} has {len(value)} characters")
        values[place] = value
    if hydrate.is_whole:
        (url,) = values.values()
        return url if _is_of(url, hydrate.hosts) else Answer("failed", words="the address in the payload has none of the `hosts`")
    if any(value in (".", "..") for value in values.values()):  # no escape keeps them from leading to another address
        return Answer("failed", words="a value is `.` or `..`, which leads to another address")
    return PLACE.sub(lambda match: quote(values[match[1]], safe=""), hydrate.url)


def _value(payload: object, place: str) -> object:
    if isinstance(payload, dict) and place in payload:
        return payload[place]
    return _at(payload, place.split("."))


def _at(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _is_of(url: str, hosts: Sequence[str]) -> bool:
    if not url.isascii() or any(letter <= " " or letter in '\\"<>^`{|}' for letter in url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() in {host.lower() for host in hosts}


def _put(event: JSON, path: Sequence[str], value: Any, clean: Callable[[JSON], object] | None) -> None:
    """Sets the member at a path; what is no object on the way gives way."""
    if clean is not None:
        alone: JSON = {}
        _put(alone, path, value, None)
        clean(alone)
        value = _at(alone, path)
    for key in path[:-1]:
        inner = event.get(key)
        if not isinstance(inner, dict):
            inner = event[key] = {}
        event = inner
    event[path[-1]] = value
