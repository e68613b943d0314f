"""Runs a tool of this machine (uv, podman, docker) to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shared.errors import Transient
from shared.tasks import timeout


class Output(NamedTuple):
    """What a tool left behind. `code`: 0 if it did what it was asked for."""

    code: int
    out: str
    errors: str


async def output_of(command: Sequence[str], environment: Mapping[str, str], seconds: float, words: str) -> Output:
    """Runs a command without input; ends it where the caller is cancelled.

    Args:
        environment: all that it sees.
        words: what runs, for the message.

    Raises:
        OSError: it cannot be started.
        Transient: it does not end within so many seconds.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with timeout(seconds):
            out, errors = await process.communicate()
    except TimeoutError as exc:
        raise Transient(f"{words} did not end within {seconds:g} s") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Output(process.returncode or 0, out.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))
