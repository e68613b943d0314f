"""Declares the streams of a connector of type `python`; `docs/connectors/python.md` shows how.

from penstock import source

@source.stream(primary_key="id", cursor="updated_at")
def orders(config, since):
    yield from ...
"""

from __future__ import annotations

from connector_runner.sources.python.declare import Checkpoint, Refused, Stream, check, stream

__all__ = ["Checkpoint", "Refused", "Stream", "check", "stream"]
