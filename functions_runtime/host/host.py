"""The host of one connection's functions: each call goes to the store or over the network, each line to those who watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from functions_runtime.host.fetch import Fetcher
from functions_runtime.host.lines import Lines
from functions_runtime.host.store import Store
from functions_runtime.sandbox.chain import CallError

SHOWN_CHARACTERS = 200


class ConnectionHost:
    """Answers what the functions of one connection ask; a `Host`.

    Args:
        secrets: texts that no line may show.
        counted: called for each call with its kind (`store`, `fetch`) and whether it failed.
    """

    def __init__(
        self, store: Store, fetcher: Fetcher, lines: Lines, secrets: Sequence[str], counted: Callable[[str, bool], None]
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._lines = lines
        self._secrets = [each for each in secrets if len(each) >= 4]
        self._counted = counted

    async def call(self, op: str, args: Sequence[Any]) -> Any:
        """As `Host.call`.

        Raises:
            CallError: it cannot be done.
        """
        kind = "fetch" if op == "fetch" else "store"
        try:
            value = await (self._fetch(args) if op == "fetch" else self._store.call(op, args))
        except CallError:
            self._counted(kind, True)
            raise
        self._counted(kind, False)
        return value

    def log(self, level: str, message: str) -> None:
        """As `Host.log`."""
        self._lines.say(level, self._masked(message))

    async def _fetch(self, args: Sequence[Any]) -> dict[str, Any]:
        if not args or not isinstance(args[0], Mapping):
            raise CallError("fetch: expected an address")
        request, began = args[0], time.monotonic()
        what = f"fetch {str(request.get('method') or 'GET')[:10]} {str(request.get('url')).partition('?')[0][:SHOWN_CHARACTERS]}"
        try:
            answer = await self._fetcher.fetch(request)
        except CallError as exc:
            self.log("warn", f"{what}: {exc}")
            raise
        self.log("debug", f"{what}: {answer['status']} in {(time.monotonic() - began) * 1000:.0f} ms")
        return answer

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "•••")
        return text
