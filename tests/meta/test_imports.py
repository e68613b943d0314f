"""A command imports what it needs, when it needs it: most of the time of a short command is its imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "aiohttp.client", "asyncpg", "duckdb", "jinja2", "numpy", "opentelemetry.sdk", "prometheus_client", "pyarrow", "pygments", "rich",
    "typing_extensions",
}  # fmt: skip
"""Each costs as much as all the rest of a command. The broker's client names aiohttp without using it: see `penstock/postponed.py`."""
READS_NO_FILE = {"export", "query", "status"}
"""These need no YAML, and nothing of the loader but what opens a destination."""
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
    # those that read no file first, so that what they bring is theirs
    names = sorted(MODULES, key=lambda name: name not in READS_NO_FILE)
    done = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, check=True, text=True)
    every, found = json.loads(done.stdout)
    return {"all of them together": every, **found}


@pytest.mark.parametrize("name", ["all of them together", *MODULES])
def test_no_command_imports_what_costs_more_than_itself(name: str, imported: dict[str, list[str]]) -> None:
    assert not HEAVY & set(imported[name])


@pytest.mark.parametrize("name", sorted(READS_NO_FILE))
def test_a_command_that_reads_no_project_file_brings_no_yaml(name: str, imported: dict[str, list[str]]) -> None:
    assert not {"yaml", "penstock.control.project.projects"} & set(imported[name])
