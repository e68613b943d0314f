"""From five arguments on, a call of our own functions names them: a reader need not count positions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("shared", "ingest", "router", "loader", "penstock", "functions_runtime", "connector_runner")
MOST = 4
"""Positional arguments of a call. Naming the others costs nothing measurable: of a Struct with six fields 165 ns either way."""

PASSES_ON = {"run", "_run", "call", "together"}
"""Methods that pass on any arguments, under names that others of ours have too."""


@cache
def modules(package: str) -> list[tuple[str, ast.Module]]:
    """Returns path and syntax tree of every module of a package."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


@cache
def own_names() -> set[str]:
    """Returns the names of our functions and classes, but for functions that pass on any arguments."""
    names: set[str] = set()
    for package in PACKAGES:
        for _, tree in modules(package):
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) or (
                    isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.vararg is None
                ):
                    names.add(node.name)
    return names


def foreign_names(tree: ast.Module) -> set[str]:
    """Returns the names that a module imports from elsewhere."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(each.asname or each.name).split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in PACKAGES:
            names |= {each.asname or each.name for each in node.names}
    return names


def long_calls(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """Yields the calls of our own functions with too many positional arguments, as `line: name`."""
    foreign = foreign_names(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) <= MOST or any(isinstance(each, ast.Starred) for each in node.args):
            continue
        match node.func:
            case ast.Name(name) if name not in foreign and name in own:
                yield f"{node.lineno}: {name}"
            case ast.Attribute(ast.Name(owner), name) if owner in foreign:
                continue
            case ast.Attribute(_, name) if name in own and name not in PASSES_ON:
                yield f"{node.lineno}: {name}"


def test_a_call_names_its_arguments_from_five_on() -> None:
    own = own_names()
    found = [f"{path}:{call}" for package in PACKAGES for path, tree in modules(package) for call in long_calls(tree, own)]
    assert not found, "name the arguments of:\n" + "\n".join(found)


def test_a_call_with_five_positions_is_found() -> None:
    tree = ast.parse(
        "import rich\nours(1, 2, 3, 4, 5)\nrich.ours(1, 2, 3, 4, 5)\nours(1, 2, 3, 4, fifth=5)\nself.ours(1, 2, 3, 4, 5)\n"
    )
    assert list(long_calls(tree, {"ours"})) == ["2: ours", "5: ours"]
