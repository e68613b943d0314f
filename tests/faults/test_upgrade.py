"""A rolling upgrade under load, from the commit before this one: acknowledged events are in the tables, each once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.faults.upgrade import upgrade

ROOT = Path(__file__).parents[2]
BEFORE = "HEAD~1"
PARTS = ("shared", "ingest", "router", "functions_runtime", "loader", "connector_runner", "penstock")


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The services of the commit before this one."""
    if git("rev-parse", "--verify", "--quiet", f"{BEFORE}^{{commit}}").returncode:
        pytest.skip(f"NOT TESTED: this clone has no {BEFORE}, so no upgrade from it; fetch two commits or more")
    folder = tmp_path / "before"
    folder.mkdir()
    packed = git("archive", BEFORE, *PARTS)
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


@pytest.mark.timeout(240)
async def test_services_are_replaced_one_after_the_other_and_nothing_is_lost_or_doubled(before: Path, tmp_path: Path) -> None:
    await upgrade(before, tmp_path, copies=1, seconds=0.5)
