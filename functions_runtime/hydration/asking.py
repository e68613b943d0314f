"""Asks for what the deliveries of a frame only name: each address once a frame, some at once, within bounds.

Off the edge's path: the deliveries are durable long before. What fails waits in RETRY like an event of a function, and the others go on. An address
that asks to wait, or fails as often in a row as requests may be under way at once, is left alone for a while (`pausing.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from functions_runtime.again import Policy
from functions_runtime.definition import Definition
from functions_runtime.host.fetch import Fetcher, NoAddressError, TooLargeError
from functions_runtime.hydration.pausing import Pauses
from functions_runtime.rules.hydrating import PREFIX, PROTOCOL, UNASKED, Answer, Ask, Hydration
from functions_runtime.rules.packing import prepare, without_hints
from functions_runtime.sandbox.chain import CallError
from shared.events import exact
from shared.events.frame import Frame
from shared.project.webhooks.hydrate import Hydrate
from shared.service import ServiceContext
from shared.tasks import first_of, task_group

MISSING = frozenset((204, 404, 410))
LATER = frozenset((202, 401, 403, 407, 408, 421, 425, 429))
"""Statuses under which the same request may succeed later. 401 and 403: a person mends the token."""

MOST_AFTER_SECONDS = 24 * 3600.0
"""No answer makes an event wait for longer, not even by its `Retry-After`."""
MOST_TIMES = 10**9
_BOM = b"\xef\xbb\xbf"

_read = msgspec.json.Decoder(float_hook=exact.number).decode


class LeavingError(Exception):
    """The service drains while something cannot be done; the frame under way comes again."""


async def ask_one(fetcher: Fetcher, url: str, hydrate: Hydrate) -> Answer:
    """Returns what an address answers."""
    try:
        status, body, asked = await fetcher.get(
            url, hydrate.headers, seconds=float(hydrate.timeout), most_bytes=int(hydrate.max_bytes)
        )
    except (TooLargeError, NoAddressError) as exc:
        return Answer("failed", words=str(exc))
    except CallError as exc:
        return Answer("again", words=str(exc))
    if status in MISSING:
        return Answer("missing", status, words=f"the address answers {status}")
    if status in LATER or status >= 500:
        return Answer("again", status, words=f"the address answers {status}", after=min(asked or 0.0, MOST_AFTER_SECONDS))
    if not 200 <= status < 300:
        return Answer("failed", status, words=f"the address answers {status}")
    try:
        value = _read(body.removeprefix(_BOM))
        if isinstance(value, dict):
            without_hints(value)  # who fills an API's objects must not choose types and tables
        return Answer("ok", status, value)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Answer("failed", status, words=f"the address answers {status} with {len(body)} bytes that are no JSON")


async def ask_all(
    fetcher: Fetcher,
    asks: Sequence[Ask],
    wanted: Mapping[str, Hydrate],
    leaving: Callable[[], bool] = lambda: False,
    *,
    pauses: Pauses | None = None,
) -> dict[Ask, Answer]:
    """Returns the answers of all addresses.

    Args:
        pauses: which of them are left alone; None: none so far.

    Raises:
        LeavingError: `leaving` says so before all were asked.
    """
    answers: dict[Ask, Answer] = {}
    resting = pauses or Pauses()

    async def ask_some(todo: list[Ask], hydrate: Hydrate) -> None:
        while todo:
            if leaving():
                raise LeavingError
            ask = todo.pop()
            answer = resting.instead(ask.webhook)
            if answer is None:
                answer = await ask_one(fetcher, ask.url, hydrate)
                resting.note(ask.webhook, hydrate, answer)
            answers[ask] = answer

    try:
        async with task_group() as group:
            for name, hydrate in wanted.items():
                todo = [ask for ask in reversed(asks) if ask.webhook == name]
                for _ in range(min(len(todo), hydrate.at_once)):
                    group.create_task(ask_some(todo, hydrate))
    except BaseExceptionGroup as exc:
        raise first_of(exc) from exc
    return answers


class Hydrator:
    """Asks for the events of one connection.

    Args:
        name: of the connection.
        leaving: whether the worker must end.
    """

    def __init__(self, context: ServiceContext, name: str, fetcher: Fetcher, leaving: Callable[[], bool]) -> None:
        self.policies: dict[str, Policy] = {}
        """How often events of a webhook are tried again, by the name under which they wait."""
        self._context, self._name, self._fetcher, self._leaving = context, name, fetcher, leaving
        self._part = f"hydration of connection {name}"
        self._asked: tuple[Frame, Mapping[str, Hydrate], dict[Ask, Answer]] | None = None
        self._pauses = Pauses()
        self._rested: Mapping[str, Hydrate] = {}
        self._failing: dict[str, str] = {}
        """The last failure, by webhook."""

    async def of(self, frame: Frame, definition: Definition, failures: int) -> Hydration | None:
        """Returns what is added to the events of a frame; None: to none of them.

        Raises:
            LeavingError: the worker must end.
            Permanent: the frame cannot be read.
        """
        wanted = definition.hydrates
        if not wanted or all(request.protocol != PROTOCOL for request in frame.requests):
            return None
        self.policies = {f"{PREFIX}{name}": Policy(tuple(map(float, each.delays))) for name, each in wanted.items()}
        for name, each in wanted.items():
            self.policies[f"{UNASKED}{name}"] = Policy(tuple(map(float, each.delays[:1])), MOST_TIMES)
        # functions may not run yet, and ask for the frame over and over
        if self._asked is None or self._asked[0] is not frame or self._asked[1] != wanted:
            collecting = Hydration(wanted, None)
            prepare(frame, None, failures, self._context.forgotten, hydrate=collecting)
            self._rest(wanted)
            answers = await ask_all(self._fetcher, list(collecting.asks), wanted, self._leaving, pauses=self._pauses)
            self._asked = frame, wanted, answers
            self._show(answers, wanted)
        return Hydration(wanted, self._asked[2], failures)

    def count(self, hydration: Hydration) -> None:
        """Counts what became of a frame's events."""
        for (webhook, result), amount in hydration.results.items():
            self._context.telemetry.count(
                "functions_hydrated_total", amount, connection=self._name, webhook=webhook, result=result
            )
        self._asked = None

    def leave(self) -> None:
        """Shows no more."""
        self._context.health.good(self._part)

    def _rest(self, wanted: Mapping[str, Hydrate]) -> None:
        """Forgets the pauses of webhooks that were changed: a person may have mended them."""
        self._pauses.keep([name for name, each in wanted.items() if self._rested.get(name) == each])
        self._rested = wanted

    def _show(self, answers: Mapping[Ask, Answer], wanted: Mapping[str, Hydrate]) -> None:
        for ask in answers:
            self._failing.pop(ask.webhook, None)
        # what stays as it is is told as a dead letter
        self._failing |= {ask.webhook: answer.words for ask, answer in answers.items() if answer.kind == "again"}
        self._failing = {name: words for name, words in self._failing.items() if name in wanted}
        if self._failing:
            said = "; ".join(f"webhook {name}: {words}" for name, words in sorted(self._failing.items()))
            self._context.health.warn(self._part, f"what deliveries name cannot be fetched: {said}")
        else:
            self._context.health.good(self._part)
