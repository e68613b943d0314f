"""Options that all services share: the address and the rate of calls, and how long they are tried."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, field

from loader.contract.events import SendLimits
from shared.reading.units import Duration


class Pace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast calls follow each other, and how long they are tried."""

    ordered: Annotated[
        bool,
        Meta(description="true: the events of a user arrive in their order; a waiting event holds up later ones of its user"),
    ] = True
    calls_at_once: Annotated[int, Meta(ge=1, le=256, description="calls under way together")] = 4
    rate: Annotated[Annotated[float, Meta(gt=0)] | None, Meta(description="most calls a second; none: unlimited")] = None
    timeout: Annotated[Duration, Meta(description="longest time for a call")] = field(default_factory=lambda: Duration(30))
    retry_delay: Annotated[
        Duration, Meta(description="first wait of a failed call; each further wait is three times as long, up to 1h")
    ] = field(default_factory=lambda: Duration(10))
    max_age: Annotated[Duration, Meta(description="an event on which the destination fails for longer becomes a dead letter")] = (
        field(default_factory=lambda: Duration(3 * 86_400))
    )

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ValueError("timeout: expected more than 0")


class Sending(Pace, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of every service that takes one event a call."""

    endpoint: Annotated[
        str | None, Meta(description="address to send to instead of the service's own, such as a proxy's; paths are added to it")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.endpoint is not None:
            _require_address(self.endpoint)


class Batching(Sending, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of every service that takes several events a call."""

    batch_events: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        Meta(description="most events in a call; default and upper bound: what the service takes"),
    ] = None


def address(options: Sending, own: str) -> str:
    """Returns the address of calls: the `endpoint`, else the service's own address, without a slash at its end."""
    return (options.endpoint or own).rstrip("/")


ANSWER_BYTES = 4 * 1024
"""Read of an answer for each event of its call. Services echo what they took: HubSpot a contact, Google Ads a conversion, Mixpanel words
about each refused event. A cut answer cannot be read, and would hide which events were refused."""
LEAST_ANSWER_BYTES, MOST_ANSWER_BYTES = 64 * 1024, 4 * 1024 * 1024


def send_limits(options: Sending, events: int = 1) -> SendLimits:
    """Returns the limits of calls; `events`: the most that the service takes in a call."""
    wished = options.batch_events if isinstance(options, Batching) else None
    most = min(wished or events, events)
    return SendLimits(
        events_per_call=most,
        answer_bytes=min(max(LEAST_ANSWER_BYTES, most * ANSWER_BYTES), MOST_ANSWER_BYTES),
        calls_at_once=options.calls_at_once,
        ordered=options.ordered,
        calls_a_second=options.rate,
        timeout_seconds=float(options.timeout),
        retry_seconds=float(options.retry_delay),
        max_age_seconds=float(options.max_age),
    )


def require(option: str, value: str, pattern: str, expected: str) -> None:
    """Checks the form of an option. Its schema cannot: in a project file it may be a variable.

    Raises:
        ValueError: it has another form; says which is expected.
    """
    if not re.fullmatch(pattern, value, re.ASCII):
        raise ValueError(f"{option}: expected {expected}")


def _require_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        raise ValueError("endpoint: host and port are no address") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("endpoint: expected https:// and a host, perhaps with a path")
    if "@" in parts.netloc or not url.isprintable() or " " in url:
        raise ValueError("endpoint: a user name or a blank does not belong into it")
