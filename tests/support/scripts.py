"""A launcher that runs a few lines of Python in place of a connector: for what published connectors do only on a bad day."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

AIRBYTE = """
import json, os, sys, time
def say(kind, **content):
    sys.stdout.write(json.dumps({"type": kind, **content}) + "\\n"); sys.stdout.flush()
def row(stream, data, **more):
    say("RECORD", record={"stream": stream, "data": data, "emitted_at": 1, **more})
def state(stream, position, rows=None):
    stats = {} if rows is None else {"sourceStats": {"recordCount": float(rows)}}
    if stream is None:
        say("STATE", state={"type": "GLOBAL", "global": {"shared_state": position, "stream_states": []}, **stats})
    else:
        say("STATE", state={"type": "STREAM", "stream": {"stream_descriptor": {"name": stream}, "stream_state": position}, **stats})
def status(stream, word):
    say("TRACE", trace={"type": "STREAM_STATUS", "emitted_at": 1.0, "stream_status": {"stream_descriptor": {"name": stream}, "status": word}})
def error(words, kind="system_error"):
    say("TRACE", trace={"type": "ERROR", "emitted_at": 1.0, "error": {"message": words, "failure_type": kind}})
def option(name):
    return json.load(open(sys.argv[sys.argv.index(name) + 1]))
"""
"""Words for messages of the Airbyte protocol."""


class Script:
    """Runs `code`. Keeps the folders that it ran in."""

    environment: Mapping[str, str] = {}

    def __init__(self, code: str) -> None:
        self._code = code
        self.folders: list[Path] = []

    async def command(self, arguments: Sequence[str | Path], folder: Path) -> list[str]:
        """Returns Python, the code and the arguments."""
        self.folders.append(folder)
        return [sys.executable, "-I", "-S", "-c", self._code, *map(str, arguments)]

    async def ended(self, folder: Path) -> None:
        """Leaves nothing to remove."""
