"""Points in time as people write them for options: ISO 8601, or how long ago (`15m`, `2d`)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from shared.reading.moments import shown
from shared.reading.units import Duration

if TYPE_CHECKING:
    from shared.streams.removed import RemovedBalance


class Moment(click.ParamType[float]):
    """Epoch seconds from `2026-03-01T12:00:00Z`, `2026-03-01` or `15m` (ago); a time without a zone is UTC."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads the option."""
        if isinstance(value, int | float):
            return float(value)
        text = str(value)
        if (at := epoch_of(text)) is not None:
            return at
        try:
            return datetime.now(UTC).timestamp() - Duration.parse(text)
        except ValueError:
            self.fail(
                f"expected a time such as 2026-03-01T12:00:00Z, or how long ago such as 15m or 2d, got {text!r}", param, ctx
            )


def moment_of(text: str) -> str:
    """Returns an ISO 8601 time in UTC as people read it; `unknown` if it is empty."""
    return text.removesuffix("+00:00").removesuffix("Z").replace("T", " ") or "unknown"


def epoch_of(text: str) -> float | None:
    """Returns an ISO 8601 time in UTC as epoch seconds; None if it is no time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def gone(removed: RemovedBalance) -> str:
    """Names a connection that left the project."""
    return f"{removed.connection} (removed {shown(removed.at)})" if removed.queue else f"removed until {shown(removed.at)}"
