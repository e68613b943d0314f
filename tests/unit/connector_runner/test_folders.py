"""Private folders of connectors: secrets lie in memory, and nothing stays when runner and keeper are killed."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from connector_runner.programs import folders
from connector_runner.programs.folders import HELD, PREFIX, private_folders, sweep

ROOT = Path(__file__).parents[3]
SECRET = b"hunter2-of-the-folders"
RUNNER = f"""
import asyncio, sys
from pathlib import Path
from connector_runner.contract import Environment
from connector_runner.programs.folders import private_folders
from connector_runner.programs.program import Limits
from connector_runner.programs.running import running
from shared.reading.mask import Mask
from tests.support.scripts import Script

async def main():
    with private_folders() as (disk, secret):
        environment = Environment(disk, disk, lambda said: None, secret)
        script = Script("import time; print('runs', flush=True); time.sleep(600)")
        files = {{"--config": {SECRET!r}}}
        async with running(script, [], files, limits=Limits(), mask=Mask([]), environment=environment) as program:
            async for _ in program.lines():
                print(disk, secret, flush=True)

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests have folders too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(folders, "IN_MEMORY", tmp_path / "memory")
    for name in ("tmp", "memory"):
        (tmp_path / name).mkdir()


def holding(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file() and SECRET in each.read_bytes()]


async def test_what_a_killed_runner_and_keeper_leave_is_not_on_disk_and_is_swept(tmp_path: Path) -> None:
    patched = f"from connector_runner.programs import folders\nfrom pathlib import Path\nfolders.IN_MEMORY = Path({str(tmp_path / 'memory')!r})\n"
    runner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", patched + RUNNER, cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        env={"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert runner.stdout is not None
    disk, secret = map(Path, (await runner.stdout.readline()).decode().split())
    processes = psutil.Process(runner.pid).children(recursive=True)
    assert len(processes) == 2, "the keeper and the program"
    try:
        (left,) = holding(tmp_path / "memory")
        assert holding(tmp_path / "tmp") == []
        for folder in (disk, secret):
            assert folder.stat().st_mode & 0o777 == 0o700
            assert [each.stat().st_mode & 0o077 for each in folder.iterdir() if each.name != HELD] == [0]
        assert sweep() == [], "its runner lives"
    finally:
        for each in processes:
            each.send_signal(signal.SIGSTOP)  # so that the keeper does not outlive its runner for a moment
        runner.kill()
        await runner.wait()
        for each in processes:
            each.kill()
    assert left.exists()
    assert sorted(sweep()) == sorted(map(str, (disk, secret)))
    assert [*(tmp_path / "tmp").iterdir(), *(tmp_path / "memory").iterdir()] == []


def test_folders_go_at_the_end_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    with private_folders() as (disk, secret):
        assert (disk.parent.name, secret.parent.name) == ("tmp", "memory")
        assert sweep() == []
    assert not disk.exists()
    assert not secret.exists()
    young = tmp_path / "tmp" / f"{PREFIX}young"
    young.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tmp" / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    assert sweep() == []


def test_without_a_folder_in_memory_secrets_lie_in_the_private_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(folders, "IN_MEMORY", tmp_path / "none")
    with private_folders() as (disk, secret):
        assert disk == secret
