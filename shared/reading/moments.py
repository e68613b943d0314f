"""Points in time as people read them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload


@overload
def shown(seconds: float) -> str: ...
@overload
def shown(seconds: None) -> None: ...
@overload
def shown(seconds: float | None) -> str | None: ...
def shown(seconds: float | None) -> str | None:
    """Returns epoch seconds as people read them."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
