"""The import rules of docs/architecture.md, held by reading every module's imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = {"ingest", "router", "functions_runtime", "loader", "connector_runner"}
ALLOWED: dict[str, set[str]] = {
    "shared": {"shared"},
    **{service: {"shared", service} for service in SERVICES},
    "penstock": {"shared", "penstock", *SERVICES},
}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "manager", "util", "misc"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_the_architecture_allows(package: str) -> None:
    ours = set(ALLOWED) | {"tests", "bench"}
    for path in modules(package):
        for name in imported(path):
            top = name.split(".")[0]
            assert top not in ours or top in ALLOWED[package], f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_every_module_says_what_it_is_and_is_named_for_it(package: str) -> None:
    for path in modules(package):
        where = path.relative_to(ROOT)
        assert ast.get_docstring(ast.parse(path.read_text())), f"{where} has no docstring"
        assert path.stem not in FORBIDDEN_NAMES, f"{where}: name the file for what it is about"
        assert len(path.read_text().splitlines()) <= 400, f"{where} is longer than one idea"


@pytest.mark.parametrize("folder", ["tests", "bench"])
def test_files_beside_the_packages_hold_one_idea_each_too(folder: str) -> None:
    for path in modules(folder):
        where = path.relative_to(ROOT)
        assert len(path.read_text().splitlines()) <= 400, f"{where} is longer than one idea: split it by its subjects"
        assert path.name == "conftest.py" or ast.get_docstring(ast.parse(path.read_text())), f"{where} has no docstring"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_tasks_and_timeouts_are_those_of_shared_tasks(package: str) -> None:
    """`asyncio`'s own leave a task marked as cancelled, or take a timeout for a cancellation, on the Pythons of Debian."""
    for path in modules(package):
        if path != ROOT / "shared/tasks.py":
            for own in ("asyncio.TaskGroup(", "asyncio.timeout", "asyncio.wait_for("):
                assert own not in path.read_text(), f"{path.relative_to(ROOT)} uses {own}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_nothing_is_raised_in_a_handler_of_groups(package: str) -> None:
    """Python up to 3.11.2 wraps it in a group of its own, which nobody catches."""
    for path in modules(package):
        for node in ast.walk(ast.parse(path.read_text())):
            for handler in node.handlers if isinstance(node, ast.TryStar) else ():
                raised = [each for each in ast.walk(handler) if isinstance(each, ast.Raise)]
                assert not raised, f"{path.relative_to(ROOT)} line {raised[0].lineno}"
