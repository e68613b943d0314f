"""A whole stack for measurements: that of `tests/support/stack.py`, with a sender beside it."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import msgspec

from tests.support.forked import ROOT
from tests.support.stack import Stack
from tests.support.stack import stack as any_stack

KEY = "bench-key"

stack = functools.partial(any_stack, fork=False)

__all__ = ["KEY", "Stack", "finish", "pump", "stack"]


def pump(running: Stack, **options: Any) -> subprocess.Popen[bytes]:
    """Starts the sender of `bench/kit/pump.py`; options as its arguments."""
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in ({"key": KEY} | options).items() if value is not None]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.kit.pump", f"--port={running.port}", *arguments],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )


def finish(sender: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Waits for a sender and returns what it printed."""
    output, _ = sender.communicate()
    result: dict[str, Any] = msgspec.json.decode(output)
    return result
