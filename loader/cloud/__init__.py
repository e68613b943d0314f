"""Event-wise destinations: services that take events over HTTP, one file each (`loader/contract/events.py`)."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, cast

from loader.contract.events import Call, EventCapabilities, HTTPDestination, Link, SendLimits, Way
from loader.contract.warehouse import CheckResult

if TYPE_CHECKING:
    from shared.reading.mask import Mask


class Service:
    """The part of an `HTTPDestination` that all services share; `calls` and `answer` are the service's own."""

    capabilities = EventCapabilities()

    def __init__(self, limits: SendLimits) -> None:
        self.limits = limits

    def trial(self) -> Call | str:
        return "the service has no call that checks the credentials and changes nothing"

    def link(self, way: Way) -> AbstractAsyncContextManager[Link]:
        from loader.links import http  # here, so that listing services loads no HTTP client

        return http.link(cast("HTTPDestination", self), way)

    def check(self, mask: Mask) -> Coroutine[Any, Any, Sequence[CheckResult]]:
        from loader.links.check import check_calls

        return check_calls(cast("HTTPDestination", self), mask)

    async def close(self) -> None:
        pass
