"""Event-wise destinations: services that take events over HTTP, one file each (`loader/contract/events.py`)."""

from __future__ import annotations

from loader.contract.events import Call, EventCapabilities, SendLimits


class Service:
    """The part of an `EventDestination` that all services share."""

    capabilities = EventCapabilities()

    def __init__(self, limits: SendLimits) -> None:
        self.limits = limits

    def trial(self) -> Call | str:
        return "the service has no call that checks the credentials and changes nothing"

    async def close(self) -> None:
        pass
