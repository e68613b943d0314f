"""`penstock deploy` where a file cannot be copied."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock.command.verbs.deploy import deploy
from penstock.deployed import NAMES, deployed
from shared.errors import SetupError


def test_what_cannot_be_copied_is_named_and_the_next_call_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = tmp_path / "source", tmp_path / "cluster"
    for name in NAMES:
        copy = shutil.copytree if (deployed() / name).is_dir() else shutil.copy2
        source.mkdir(exist_ok=True)
        copy(deployed() / name, source / name)
    hole = source / "deploy" / "hole"
    hole.symlink_to("nowhere")
    monkeypatch.setitem(deploy.callback.__wrapped__.__globals__, "deployed", lambda: source)  # type: ignore[union-attr]
    failed = CliRunner().invoke(deploy, [str(folder)])
    assert isinstance(failed.exception, SetupError)
    assert "cannot be written: [Errno 2]" in str(failed.exception)
    hole.unlink()
    assert CliRunner().invoke(deploy, [str(folder)]).exit_code == 0
    assert (folder / "deploy" / "compose" / "make-env").stat().st_mode & 0o100


def test_a_link_that_leads_nowhere_is_kept(tmp_path: Path) -> None:
    (tmp_path / "deploy").symlink_to("nowhere")
    failed = CliRunner().invoke(deploy, [str(tmp_path)])
    assert isinstance(failed.exception, SetupError)
    assert (tmp_path / "deploy").is_symlink()
