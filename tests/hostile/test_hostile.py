"""Attacks, one after the other, each within bounds of CPU and memory, beside a healthy client that is always served.

CPU is that of the process, so a busy machine changes little. One request may cost 0.3 s of it (`tests/support/dear_bodies.py`), and of an attack
that consists of many, each a hundredth of that.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.hostile.edge import MIB, SECONDS, Target, measured, neighbour
from tests.hostile.protocols import protocol_rows
from tests.hostile.requests import Row, rows
from tests.hostile.sockets import SCRIPTS, Script
from tests.support.dear_bodies import allowed_seconds

SMALL_REQUESTS = 100
"""Of an attack of many requests so many may cost together what one may."""

REQUEST_BYTES = 96 * MIB
FLOOD_BYTES = 300 * MIB
"""What the process may grow by meanwhile."""


def allowed_for(requests: int) -> float:
    """Returns the CPU that an attack of so many requests may cost."""
    return allowed_seconds() * max(1.0, requests / SMALL_REQUESTS)


@pytest.mark.parametrize("row", [*rows(), *protocol_rows()], ids=lambda row: row.name)
async def test_a_hostile_request_costs_little_and_hurts_nobody(target: Target, idle_bytes: int, row: Row) -> None:
    async with asyncio.timeout(SECONDS), neighbour(target) as healthy, measured(target, idle_bytes) as cost:
        heard = await target.send(row.data)
    assert set(heard) <= row.heard, f"heard {heard[:10]}"
    assert set(healthy.statuses) == {"200"}, (healthy.statuses, healthy.told)
    assert cost.cpu_seconds <= allowed_for(row.requests)
    assert cost.grown_bytes <= REQUEST_BYTES


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_hostile_client_costs_little_and_hurts_nobody(target: Target, idle_bytes: int, name: str) -> None:
    script: Script
    script, requests = SCRIPTS[name]
    async with asyncio.timeout(SECONDS), neighbour(target) as healthy, measured(target, idle_bytes) as cost:
        await script(target)
    assert set(healthy.statuses) == {"200"}, (healthy.statuses, healthy.told)
    assert cost.cpu_seconds <= allowed_for(requests)
    assert cost.grown_bytes <= FLOOD_BYTES
