"""Finds the broker of a command and connects to it.

In this order: `--url`, the variable PENSTOCK_NATS_URL, the stack that runs in `--home`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import nats.errors

from penstock.stack.home import Home, StackState, stack_environment
from shared.errors import NotConnected, SetupError
from shared.jetstream import topology
from shared.jetstream.broker import Broker, connect

PATIENCE_SECONDS = 5.0
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Reach:
    """The broker of a command; `state` is known if it is the stack in `home`."""

    home: Home
    broker_url: str
    state: StackState | None

    @property
    def environment(self) -> dict[str, str]:
        """Returns variables for `${NAME}` in project files: the process's own and, for a local stack, its places."""
        return dict(os.environ) if self.state is None else local_environment(self.home)


def local_environment(home: Home) -> dict[str, str]:
    """Returns the variables of project files for the stack in a home, also before it runs."""
    return {**os.environ, "PENSTOCK_HOME": stack_environment(home)["PENSTOCK_HOME"]}


def find_reach(home: Home, url: str | None) -> Reach:
    """Finds the broker.

    Raises:
        SetupError: no broker is named and no stack runs in the home; says how to go on.
    """
    state = home.read() if home.is_running() else None
    if url and (state is None or state.broker_url != url):
        return Reach(home, url, None)
    if state is None:
        raise SetupError(
            f"no stack runs in {home.folder}; start one with `penstock up`, point to its folder with --home, "
            "or name a broker with --url nats://host:4222"
        )
    return local_reach(home, state)


def local_reach(home: Home, state: StackState) -> Reach:
    """Returns the broker of the stack that runs in a home."""
    return Reach(home, home.address(state), state)


@contextlib.asynccontextmanager
async def open_broker(reach: Reach) -> AsyncIterator[Broker]:
    """Connects to the broker. Creates and changes no stream: only services do, by the settings they run with.

    Raises:
        NotConnected: it does not answer within five seconds.
        SetupError: it has no JetStream, or lacks streams.
    """
    try:
        async with connect(reach.broker_url, "penstock-command", patience_seconds=PATIENCE_SECONDS) as broker:
            await _check_streams(broker, PATIENCE_SECONDS if reach.state else 0.0)
            yield broker
    except NotConnected as exc:
        hint = f"; the logs are in {reach.home.logs}" if reach.state else ""
        raise NotConnected(f"{exc}{hint}") from exc


async def _check_streams(broker: Broker, patience_seconds: float) -> None:
    """Waits for services that have just started and create the streams."""
    ends_at = asyncio.get_running_loop().time() + patience_seconds
    while True:
        try:
            missing = await topology.missing(broker)
        except nats.errors.NoRespondersError as exc:
            raise SetupError("the broker has no JetStream; enable it in the server's configuration") from exc
        except (nats.errors.Error, OSError, TimeoutError) as exc:
            raise NotConnected(f"the broker does not list its streams: {str(exc) or type(exc).__name__}") from exc
        if not missing:
            return
        if asyncio.get_running_loop().time() >= ends_at:
            raise SetupError(
                f"the broker lacks {', '.join(missing)}; a service creates them when it starts: "
                "start `penstock up`, or `python -m ingest`, `router`, `functions_runtime`, `loader` and `connector_runner` of this version"
            )
        await asyncio.sleep(POLL_SECONDS)
