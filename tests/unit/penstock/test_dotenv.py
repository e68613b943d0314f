"""Variables of `.env`: beside the project file and where a command runs, never over the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.command.cli import run
from penstock.command.dotenv import load_dotenv, misspelt, with_dotenv
from shared.errors import SetupError


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# of the shop\nexport PG_DSN='postgres://u:p@h/db'\nSHOP_SECRET=file\nEMPTY=\nNAME\n")
    assert with_dotenv({"SHOP_SECRET": "shell"}, tmp_path) == {
        "PG_DSN": "postgres://u:p@h/db", "SHOP_SECRET": "shell", "EMPTY": "",
    }  # fmt: skip


def test_a_dollar_in_a_password_stays(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SECRET=a${HOME}b$c\n")
    assert with_dotenv({}, tmp_path) == {"SECRET": "a${HOME}b$c"}


def test_variables_of_the_process_are_set_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PENSTOCK_TEST_A=file\nPENSTOCK_TEST_B=file\n")
    monkeypatch.setenv("PENSTOCK_TEST_A", "shell")
    monkeypatch.setenv("PENSTOCK_TEST_B", "")
    monkeypatch.delenv("PENSTOCK_TEST_B")
    load_dotenv(tmp_path)
    import os

    assert (os.environ["PENSTOCK_TEST_A"], os.environ["PENSTOCK_TEST_B"]) == ("shell", "file")


def test_without_a_file_nothing_changes(tmp_path: Path) -> None:
    assert with_dotenv({"A": "1"}, tmp_path) == {"A": "1"}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(SetupError, match=r"\.env cannot be read: it is not UTF-8"):
        with_dotenv({}, tmp_path)


def test_a_misspelt_setting_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("PENSTOCK_INGEST_PROT=1\nPENSTOCK_INGEST_PORT=1\nPENSTOCK_KEY=k\nPENSTOCK_OURS=1\nPG=x\n")
    (warning,) = misspelt(tmp_path)
    assert warning.endswith("no setting is named PENSTOCK_INGEST_PROT; did you mean PENSTOCK_INGEST_PORT?")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("penstock.command.cli.load_dotenv", lambda _folder: None)
    run(["--help"])
    assert warning in capsys.readouterr().err.replace("\n", "")
