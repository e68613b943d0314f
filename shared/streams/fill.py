"""How full the streams are. Every service measures it and tells it by a metric, by warnings of `/ready` and in the log.

From `WARN_RATIO` on, a warning says what happens when the stream is full and what to do. A stream without a limit has no ratio.
DELIVER has a limit for each connection; its ratio is the ratio of the fullest queue.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from nats.js import api

from shared.errors import NotConnected
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.telemetry.health import Health

if TYPE_CHECKING:
    from shared.telemetry.metrics import Telemetry

WARN_RATIO = 0.8
CALM_RATIO = 0.75
"""A warning ends below this; the distance keeps it from coming and going."""
PERIOD_SECONDS = 5.0

_FULL_EVENTS = "when EVENTS is full the edge answers 503"
_ADVICE = {
    topology.EVENTS: f"{_FULL_EVENTS}. The routers remove what every reader has passed, so a reader holds it back or no router runs: "
    "`penstock status` and `/ready` of the routers name it. Let it catch up, or raise PENSTOCK_EVENTS_MAX_BYTES",
    topology.DEAD: "the largest share of dead letters loses its oldest: read and purge them (`penstock dead list`), "
    "or raise PENSTOCK_DEAD_MAX_BYTES",
    f"KV_{topology.IDENTITY_BUCKET}": "events of further visitors are not kept, and stay anonymous where their user is learned later: "
    "raise PENSTOCK_IDENTITY_MAX_BYTES, or shorten `look_back` in the `identity` of connections",
    topology.FUNCTIONS: "the router stops feeding a full queue and catches up later: look at that connection's functions, "
    "or raise PENSTOCK_DELIVER_MAX_FRAMES",
    topology.DELIVER: "the router stops feeding a full queue and catches up later: look at that connection's destination, "
    "or raise PENSTOCK_DELIVER_MAX_FRAMES",
}

log = logging.getLogger(__name__)


class Fill(NamedTuple):
    """The content of a stream. `what` names the fullest subject if each subject has a limit."""

    stream: str
    held: int
    limit: int
    unit: str
    what: str = ""

    @property
    def ratio(self) -> float:
        """Part of the room that is taken; 0 where there is no limit."""
        return self.held / self.limit if self.limit > 0 else 0.0

    def __str__(self) -> str:
        of = (
            f"{self.held / 2**20:.0f} of {self.limit / 2**20:.0f} MiB" if self.unit == "bytes" else f"{self.held} of {self.limit}"
        )
        where = f", the queue {self.what}" if self.what else ""
        return f"the stream {self.stream}{where} is {self.ratio:.0%} full ({of}{'' if self.unit == 'bytes' else ' ' + self.unit})"


_ADVICE_TO_REFUSE = (
    f"{_FULL_EVENTS}. With PENSTOCK_EVENTS_WHEN_SHORT=refuse every frame stays for its age, delivered or not, so the room is too small for "
    "the age: raise PENSTOCK_EVENTS_MAX_BYTES, lower the age (PENSTOCK_EVENTS_MAX_AGE, and `nats stream edit EVENTS --max-age`), or set "
    "PENSTOCK_EVENTS_WHEN_SHORT=shed"
)


def advice(stream: str, when_short: str = "shed") -> str:
    """Returns the effect of a full stream, and what to do.

    Args:
        when_short: the routers' policy for EVENTS, as in the settings.
    """
    return _ADVICE_TO_REFUSE if (stream, when_short) == (topology.EVENTS, "refuse") else _ADVICE[stream]


def fill_of(info: api.StreamInfo) -> Fill:
    """Returns how full a stream is."""
    config, state = info.config, info.state
    name = str(config.name)
    if config.max_bytes and config.max_bytes > 0:
        return Fill(name, state.bytes, config.max_bytes, "bytes")
    limit = config.max_msgs_per_subject or 0
    what, held = max((state.subjects or {}).items(), key=lambda each: each[1], default=("", 0))
    return Fill(stream=name, held=held, limit=max(0, limit), unit="frames", what=what)


async def read_fill(broker: Broker, stream: str) -> Fill:
    """Asks the broker how full a stream is.

    Raises:
        NotConnected: it does not answer.
    """
    with asking(f"cannot look at the stream {stream}"):
        subjects = ">" if stream in (topology.DELIVER, topology.FUNCTIONS) else None
        return fill_of(await broker.js.stream_info(stream, subjects_filter=subjects))


def tell(fill: Fill, health: Health, telemetry: Telemetry, when_short: str = "shed") -> None:
    """Writes the metric, and begins or ends the warning."""
    telemetry.gauge("stream_fill_ratio", round(fill.ratio, 4), stream=fill.stream)
    part = f"stream {fill.stream}"
    if fill.ratio >= WARN_RATIO:
        if part not in health.warnings:
            log.warning("a stream is nearly full", extra={"stream": fill.stream, "held": fill.held, "limit": fill.limit})
        if part not in health.problems:
            health.warn(part, f"{fill}; {advice(fill.stream, when_short)}")
    elif fill.ratio < CALM_RATIO and part in health.warnings:
        log.info("a stream has room again", extra={"stream": fill.stream, "held": fill.held, "limit": fill.limit})
        health.good(part)


async def watch_fill(broker: Broker, health: Health, telemetry: Telemetry, when_short: str) -> None:
    """Measures for ever."""
    while True:
        await broker.connected.wait()
        for stream in _ADVICE:
            try:
                tell(await read_fill(broker, stream), health, telemetry, when_short)
            except NotConnected as exc:  # the part `broker` says so
                log.debug("a stream cannot be measured", extra={"error": str(exc)})
        await asyncio.sleep(PERIOD_SECONDS)
