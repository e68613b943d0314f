"""Scratch space: private, emptied at start and end, and refused where there is no room."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared.errors import SetupError
from shared.scratch import PREFIX, Scratch

FILLS = """
import sys, pathlib
from shared.scratch import Scratch
scratch = Scratch(pathlib.Path(sys.argv[1]))
(scratch.folder("a") / "big").write_bytes(b"x" * 1000)
print("full", flush=True)
sys.stdin.readline()
"""


def filling(home: Path) -> subprocess.Popen[str]:
    """Starts a process that keeps something in its scratch space."""
    process = subprocess.Popen([sys.executable, "-c", FILLS, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "full\n"
    return process


def test_a_process_has_directories_of_its_own_and_leaves_none(tmp_path: Path) -> None:
    one, two = Scratch(tmp_path / "home"), Scratch(tmp_path / "home")
    assert one.folder("a") == one.folder("a")
    assert one.folder("a") != one.folder("b")
    assert one.folder("a").stat().st_mode & 0o077 == 0 or one.folder("a").parent.stat().st_mode & 0o077 == 0
    (one.folder("a") / "file").write_text("x")
    (two.folder("a") / "file").write_text("y")
    one.close()
    one.close()
    assert (two.folder("a") / "file").read_text() == "y"
    two.close()
    assert list((tmp_path / "home").iterdir()) == []
    assert one.folder("a").is_dir()
    del one
    assert list((tmp_path / "home").iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    with filling(tmp_path) as living, filling(tmp_path) as killed:
        assert len(list(tmp_path.glob(f"{PREFIX}*/a/big"))) == 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        Scratch(tmp_path).clean()
        assert len(list(tmp_path.glob(f"{PREFIX}*/a/big"))) == 1
        living.communicate("\n")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_nearly_full_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = Scratch(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(SetupError, match=r"has 1000 bytes left.*SCRATCH_DIR"):
        scratch.folder("a")


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"file.*SCRATCH_DIR"):
        Scratch(tmp_path / "file" / "home").folder("a")
    Scratch(tmp_path / "file" / "home").clean()
