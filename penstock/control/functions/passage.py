"""Takes frames through a connection's lookups, privacy rules and functions as the service does, without effects: for trials on many events."""

from __future__ import annotations

from collections import Counter

from functions_runtime.definition import Definition
from functions_runtime.lookups.tables import joined
from functions_runtime.rules.joining import Join
from functions_runtime.rules.packing import finish, prepare
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate
from functions_runtime.sandbox.chain import Chain
from functions_runtime.sandbox.guest import BrokenError
from functions_runtime.settings import FunctionsSettings
from penstock.control.functions.tried import SilentHost
from penstock.control.wording import counted
from shared.errors import PenstockError, SetupError, Transient
from shared.events.frame import Frame


class Passage:
    """One connection's rules and functions; an async context manager, which ends the sandbox.

    `dropped`, `dead`: events by reason. `rules_missed`: how often a rule found nothing. `errors`: what functions threw, by name.
    """

    def __init__(self, definition: Definition) -> None:
        self.dropped: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.rules_missed = 0
        self._again = 0
        self._broken = ""
        self._join: Join | None = None
        definition = self._definition = definition.revealed()
        self._rules = definition.rules()
        self._host = SilentHost()
        self._chain = Chain(definition.spec(FunctionsSettings()), self._host) if definition.functions else None

    async def __aenter__(self) -> Passage:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._chain is not None:
            await self._chain.close()

    async def through(self, frame: Frame) -> Frame | None:
        """Returns the frame that goes on; None: functions cannot run here, which `doubts` explains.

        Raises:
            Permanent: the frame cannot be read.
        """
        if self._broken:
            return None
        try:
            if self._join is None:
                self._join = await joined(self._definition)
        except PenstockError as exc:
            self._broken = str(exc)
            return None
        prepared = prepare(frame, self._rules, join=self._join)
        given = list(prepared.given.values())
        fates = [Fate(wire.SAME)] * len(given)
        if self._chain is not None and given:
            try:
                fates = await self._chain.run(prepared.contexts, given)
            except (BrokenError, SetupError, Transient) as exc:
                self._broken = str(exc)
                return None
        finished = finish(prepared, fates)
        self.rules_missed += prepared.missed_rules
        self.errors += finished.errors
        self._again += sum(retry.dropped for retry in finished.retries)
        self.dropped.update(finished.frame.dropped)
        self.dead.update(finished.frame.dead)
        return finished.frame

    def doubts(self) -> list[str]:
        """Returns what a person should know beside the counts."""
        lines = ["deliveries of webhooks are not hydrated here: no request is sent"] if self._definition.hydrates else []
        lines += [f"function {name} threw {counted(amount, 'time')}" for name, amount in self.errors.items()]
        if self._broken:
            lines.append(f"its functions cannot run here, so events that reach them are left out: {self._broken}")
        if self.rules_missed:
            lines.append(f"privacy rules found nothing {counted(self.rules_missed, 'time')}")
        if self._join is not None:
            lines += [f"lookup {name} had no row for {counted(amount, 'event')}" for name, amount in self._join.missed.items()]
        if self._again:
            lines.append(f"{counted(self._again, 'event')} would be tried again later")
        if self._host.unsent:
            lines.append(f"functions asked `fetch` {counted(self._host.unsent, 'time')}; nothing is sent here, so each failed")
        return lines
