"""A module that is imported when it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_postponed_module_comes_with_the_first_attribute_and_is_the_real_one(tmp_path: Path) -> None:
    package = tmp_path / "slow"
    package.mkdir()
    (package / "__init__.py").write_text("print('loaded')\nfrom slow.inner import VALUE\n")
    (package / "inner.py").write_text("VALUE = 7\n")
    script = """
from penstock.postponed import postpone
postpone("slow"); postpone("nowhere")
import slow
import slow.inner
print("named")
print(slow.VALUE, slow.inner.VALUE)
import slow as again
print(again.VALUE, type(again).__name__)
postpone("slow")
print(slow.VALUE)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split("\n") == ["named", "loaded", "7 7", "7 module", "7", ""], done.stderr


def test_a_module_imported_without_another_finds_that_one_missing_and_nobody_else_does(tmp_path: Path) -> None:
    (tmp_path / "spared.py").write_text("WORD = 'spared'\n")
    (tmp_path / "user.py").write_text("try:\n    from spared import WORD\nexcept ImportError:\n    WORD = 'own'\n")
    script = """
from penstock.postponed import import_without
import_without("user", "spared")
import spared, user
print(user.WORD, spared.WORD)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "own spared\n", done.stderr
