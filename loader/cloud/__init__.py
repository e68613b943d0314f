"""Event-wise destinations: services that take events over HTTP, one file each (`loader/contract/events.py`)."""

from __future__ import annotations

from loader.contract.events import Call, EventCapabilities, SendLimits


class Service:
    """The part of an `EventDestination` that does not differ from service to service."""

    capabilities = EventCapabilities()

    def __init__(self, limits: SendLimits) -> None:
        self.limits = limits

    def trial(self) -> Call | str:
        """See `EventDestination.trial`."""
        return "the service has no call that tells whether the credentials are right and changes nothing"

    async def close(self) -> None:
        """See `EventDestination.close`."""
