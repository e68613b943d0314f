"""Leaves the address of a webhook alone for a while: when its answer asks for that, or after failures in a row. Pure but for the clock.

Without it an API that hangs would cost a timeout for each frame, and the other events of the connection would wait for that; an API with a limit
would hear of each frame that comes meanwhile, and events would use up their tries in a queue before a closed door.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from functions_runtime.rules.hydrating import Answer
from shared.backoff import Backoff
from shared.project.webhooks.hydrate import Hydrate

LONGEST_SECONDS = 60.0
"""Of a pause that no answer asked for: an address that is back is found within a minute."""
SHARE = 0.1
"""Of all delays of an event, that no such pause exceeds: an event must not spend its last tries unasked."""
FIRST_SECONDS = 1.0
PACING = frozenset((403, 429, 503))
"""Statuses whose `Retry-After` holds for all requests. Of another status, such as 202, it holds for the one address."""


@dataclass
class _State:
    backoff: Backoff
    failed: int = 0
    words: str = ""
    until: float = 0.0
    wished: bool = False


class Pauses:
    """The pauses of one connection, by webhook.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: dict[str, _State] = {}

    def instead(self, webhook: str) -> Answer | None:
        """Returns what counts as the answer while nothing is asked; None: ask."""
        state = self._states.get(webhook)
        left = state.until - self._clock() if state is not None else 0.0
        if state is None or left <= 0:
            return None
        why = f"{state.words} and asks to wait" if state.wished else f"{state.failed} failures in a row, the last: {state.words}"
        return Answer("again", words=f"not asked for {left:.0f} s more: {why}", after=left, unasked=state.wished)

    def note(self, webhook: str, hydrate: Hydrate, answer: Answer) -> None:
        """Notes what came of a request."""
        if answer.kind != "again":
            known = self._states.get(webhook)
            # what was sent before the address asked to wait says nothing
            if known is not None and (not known.wished or known.until <= self._clock()):
                del self._states[webhook]
            return
        now = self._clock()
        state = self._states.setdefault(webhook, _State(_backoff(hydrate)))
        state.failed += 1
        if answer.after > 0 and answer.status in PACING:
            if now + answer.after > state.until:
                state.until, state.wished, state.words = now + answer.after, True, answer.words
        elif now >= state.until and state.failed >= hydrate.at_once:
            state.until, state.wished, state.words = now + state.backoff.next(), False, answer.words

    def keep(self, webhooks: Collection[str]) -> None:
        """Forgets the others: a changed option begins again."""
        self._states = {name: state for name, state in self._states.items() if name in webhooks}


def _backoff(hydrate: Hydrate) -> Backoff:
    delays = list(map(float, hydrate.delays)) or [FIRST_SECONDS]
    longest = min(LONGEST_SECONDS, SHARE * sum(delays))
    return Backoff(min(delays[0], longest), longest)
