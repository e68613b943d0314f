"""What the fault tests share: a schema of their own each, and how long and how often to hurt.

`PENSTOCK_FAULT_SEED` repeats a schedule, `PENSTOCK_FAULT_ROUNDS` makes the random ones longer, `PENSTOCK_FAULT_AWAY` says for how
many seconds the broker stays away; `make faults` says a minute.
"""

from __future__ import annotations

import os
import random
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.places import Schema
from tests.support.postgres import PostgresServer
from tests.support.sender import seed_of


@pytest.fixture
def new_schema(postgres: PostgresServer) -> Callable[[], Schema]:
    """Makes schemas that nobody else uses."""
    return lambda: Schema(postgres, f"f_{secrets.token_hex(5)}")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The test's dice; the seed is shown when it fails."""
    seed = seed_of(os.environ.get("PENSTOCK_FAULT_SEED"))
    print(f"PENSTOCK_FAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting needs root: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
