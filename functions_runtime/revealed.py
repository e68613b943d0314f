"""The secrets that a connection's functions and privacy rules refer to: read at its first frame, and again from time to time.

So a changed secret is in force within half a minute, without a restart. While a secret that was read before cannot be read, such as in the
middle of its change, events go on with the last value. Without references it costs a comparison a frame.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

from functions_runtime.definition import Definition
from shared.errors import PenstockError

AGAIN_SECONDS = 20.0

log = logging.getLogger(__name__)


class Revealed:
    """Puts secrets into the definition of one connection."""

    def __init__(self) -> None:
        self._written: Definition | None = None
        self._revealed: Definition | None = None
        self._refers = False
        self._read_at = -math.inf

    async def of(self, definition: Definition) -> Definition:
        """Returns a definition with the secrets that it refers to.

        Raises:
            SetupError, NotConnected: a secret cannot be read, and was not read before.
        """
        if definition is not self._written:
            self._written, self._revealed, self._refers = definition, None, definition.refers
        if not self._refers:
            return definition
        if self._revealed is None or time.monotonic() > self._read_at + AGAIN_SECONDS:
            try:
                self._revealed = await asyncio.to_thread(definition.revealed)
            except PenstockError as error:
                if self._revealed is None:
                    raise
                log.warning(
                    "a secret cannot be read, its last value is used", extra={"connection": definition.name, "error": str(error)}
                )
            self._read_at = time.monotonic()
        return self._revealed
