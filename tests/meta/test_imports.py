"""A command imports what it needs, when it needs it: most of the time of a short command is its imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "aiohttp.client", "asyncpg", "duckdb", "numpy", "opentelemetry.sdk", "prometheus_client", "pyarrow", "pygments", "rich.progress",
}  # fmt: skip
"""Each costs as much as all the rest of a command. The broker's client names aiohttp without using it: see `penstock/terminal/postponed.py`."""
MODULES = sorted(path.stem for path in (ROOT / "penstock" / "command" / "verbs").glob("*.py") if path.stem != "__init__")


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    """Modules that each command imports, in one process that forgets them in between."""
    script = """
import importlib, json, sys
import penstock.command.cli
found = {}
for name in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(f"penstock.command.verbs.{name}")
    found[name] = sorted(set(sys.modules) - before)
print(json.dumps([sorted(sys.modules), found]))
"""
    done = subprocess.run([sys.executable, "-c", script, *MODULES], cwd=ROOT, capture_output=True, check=True, text=True)
    every, found = json.loads(done.stdout)
    return {"all of them together": every, **found}


@pytest.mark.parametrize("name", ["all of them together", *MODULES])
def test_no_command_imports_what_costs_more_than_itself(name: str, imported: dict[str, list[str]]) -> None:
    assert not HEAVY & set(imported[name])
