"""Which broker a command talks to, and how.

In this order: `--url`, the variable PENSTOCK_NATS_URL, the stack that runs in `--home`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import nats.errors
from nats.js.errors import APIError

from penstock.home import Home, StackState, stack_environment
from shared import topology
from shared.errors import NotConnected, SetupError
from shared.jetstream.broker import Broker, connect
from shared.settings import ServiceSettings, read_settings

PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Reach:
    """What a command works on: `state` is known when it is the stack in `home`."""

    home: Home
    broker_url: str
    state: StackState | None

    @property
    def environment(self) -> dict[str, str]:
        """Variables for `${NAME}` in project files: the process's own and, for a local stack, where it lives."""
        if self.state is None:
            return dict(os.environ)
        return {**os.environ, "PENSTOCK_HOME": stack_environment(self.home)["PENSTOCK_HOME"]}


def find_reach(home: Home, url: str | None) -> Reach:
    """Decides what to work on.

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
    return Reach(home, state.broker_url, state)


@contextlib.asynccontextmanager
async def open_broker(reach: Reach) -> AsyncIterator[Broker]:
    """Connects to the broker; streams and buckets that are missing are created.

    Raises:
        NotConnected: it does not answer within five seconds.
        SetupError: it has no JetStream, or refuses the streams.
    """
    try:
        async with connect(reach.broker_url, "penstock-command", patience_seconds=PATIENCE_SECONDS) as broker:
            await _prepare(broker)
            yield broker
    except NotConnected as exc:
        hint = f"; the logs are in {reach.home.logs}" if reach.state else "; check --url and that the server runs"
        raise NotConnected(f"{exc}{hint}") from exc


async def _prepare(broker: Broker) -> None:
    try:
        await topology.ensure(broker, read_settings(ServiceSettings).topology())
    except (APIError, nats.errors.Error) as exc:
        raise SetupError(
            f"the broker has no place for our streams: {exc}; JetStream must be enabled, with room for them"
        ) from exc
