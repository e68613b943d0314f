"""`penstock bench`: the benchmarks of the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

import penstock
from penstock.terminal.options import Setting, at_home
from shared.errors import SetupError

BENCHMARKS = (
    "edge.edge", "edge.judge", "router", "loading.loader", "loading.destinations", "loading.shape", "functions",
    "whole.path", "whole.cluster", "whole.rebuild",
)  # fmt: skip
"""Modules of the benchmarks, which start the other modules of the folder; a benchmark has the name of its module."""

FOLDER = Path(penstock.__file__).resolve().parents[1] / "bench"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--compare", is_flag=True, help="Run nothing; compare the ratios of the last two runs of each case.")
@at_home
def bench(setting: Setting, name: str | None, arguments: tuple[str, ...], compare: bool) -> int:
    """Runs benchmark NAME with its ARGUMENTS; without a name, lists them. They live in a checkout, not in the package.

    Ratios are kept in bench/history.jsonl.

    \b
    Example:
      penstock bench edge
      penstock bench --compare
    """
    known = benchmarks()
    if not known:
        raise SetupError(f"no benchmarks in {FOLDER}; they come with a checkout: git clone, make setup, penstock bench")
    if compare:
        command = [sys.executable, "-m", "bench.history", *(["--json"] if setting.screen.json else [])]
        return subprocess.run(command, cwd=FOLDER.parent, check=False).returncode  # noqa: S603  # a module of ours
    if name is None:
        setting.screen.result(known)
        setting.screen.table(("benchmark", "what"), list(known.items()))
        return 0
    if name not in known:
        raise click.UsageError(f"no benchmark is named {name!r}; known: {', '.join(known)}")
    setting.screen.note("a benchmark takes minutes and wants a quiet machine; docs/performance.md explains its figures")
    extra = ["--json"] if setting.screen.json else []
    module = next(each for each in BENCHMARKS if named(each) == name)
    command = [sys.executable, "-m", f"bench.{module}", *arguments, *extra]
    return subprocess.run(command, cwd=FOLDER.parent, check=False).returncode  # noqa: S603  # a module of ours


def benchmarks() -> dict[str, str]:
    """Returns the benchmarks with the first line of their docstrings; imports none."""
    found: dict[str, str] = {}
    for module in BENCHMARKS:
        file = FOLDER / f"{module.replace('.', '/')}.py"
        if file.exists():
            found[named(module)] = file.read_text(encoding="utf-8").strip().strip('"').splitlines()[0].strip().strip('"')
    return found


def named(module: str) -> str:
    """Returns the name of a benchmark: that of its module."""
    return module.rpartition(".")[2]
