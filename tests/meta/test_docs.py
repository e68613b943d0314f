"""The documentation says what the code does: generated pages are fresh, links lead somewhere, and what pages name exists.

The quick start has a test of its own, `tests/meta/test_quickstart.py`, which runs it.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import jsonschema
import pytest

from penstock import reference
from penstock.control.project.schema import project_schema
from shared.telemetry.declared import METRICS
from tests.meta.pages import DOCS, PAGES, ROOT, WRITTEN, anchors, codes, command_names, fences, inline_code, name_of, prose, rows

FOLDERS = (
    "shared",
    "ingest",
    "router",
    "functions_runtime",
    "loader",
    "connector_runner",
    "penstock",
    "bench",
    "tests",
    "docs",
    "examples",
)
CODE = ("shared", "ingest", "router", "functions_runtime", "loader", "connector_runner", "penstock")


def test_generated_pages_say_what_the_code_says() -> None:
    assert reference.stale() == [], "run: make docs"


def test_every_setting_that_is_read_is_in_the_reference() -> None:
    read = {
        argument.id
        for folder in CODE
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read_settings"
        for argument in node.args[:1]
        if isinstance(argument, ast.Name)
    }
    assert read == {settings.__name__ for _, _, settings in reference.SETTINGS}


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(project_schema())


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"sties": {}}, []),
        ({"sites": {"shop": {"key": []}}}, ["sites", "shop"]),
        ({"destinations": {"wh": {"type": "duckdb"}}}, ["destinations", "wh"]),
        ({"destinations": {"wh": {"type": "oracle"}}}, ["destinations", "wh"]),
        ({"connections": {"a": {"site": "s", "destination": "d", "mode": "bach"}}}, ["connections", "a", "mode"]),
        ({"connections": {"a": {"site": "s", "destination": "d", "where": {"field": "type"}}}}, ["connections", "a", "where"]),
    ],
)
def test_the_schema_finds_mistakes(document: dict[str, Any], where: list[str]) -> None:
    errors = list(jsonschema.Draft202012Validator(project_schema()).iter_errors(document))
    assert [list(error.absolute_path) for error in errors] == [where]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), f"{name_of(page)}: {target}"
            continue
        path, _, anchor = unquote(target).partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(there), f"{name_of(page)} links to {target}; {name_of(there)} has {sorted(anchors(there))}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)", prose(page)):
            there = (page.parent / unquote(target)).resolve()
            if there.suffix == ".md" and there.exists():
                waiting.append(there)
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_of_the_repository_exist(page: Path) -> None:
    for code in inline_code(page):
        path, _, test = code.partition("::")
        if not re.fullmatch(r"[\w./*{},-]+", path) or path.split("/")[0] not in FOLDERS or "/" not in path:
            continue
        assert (ROOT / path).exists(), f"{name_of(page)} names `{path}`, which does not exist"
        if test:
            assert test in functions_of(ROOT / path), f"{name_of(page)} names the test {test}, which is not in {path}"


@cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def variables() -> set[str]:
    settings = {prefix + field.upper() for _, prefix, settings in reference.SETTINGS for field in settings.__struct_fields__}
    options = {
        parameter.envvar
        for _, command in reference.commands()
        for parameter in command.params
        if isinstance(parameter.envvar, str)
    }
    return settings | options


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_variables_and_metrics_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\bPENSTOCK_[A-Z_]+\b", text)) <= variables() | {"PENSTOCK_HOME"}
    metrics = {metric.name for metric in METRICS}
    named = {code.partition("{")[0] for code in inline_code(page) if re.match(r"(ingest|router|loader)_\w+(\{.*\})?$", code)}
    assert named <= metrics


def test_commands_that_pages_show_exist() -> None:
    known = command_names()
    for page in WRITTEN:
        shown = [*inline_code(page), *(line.removeprefix("$ ") for fence in fences(page) for line in fence.body.splitlines())]
        for text in shown:
            match = re.match(r"penstock ([a-z]+)(?: ([a-z]+))?", text)
            if match is None:
                continue
            name, inner = match.groups()
            assert name in known, f"{name_of(page)} shows `penstock {name}`"
            command = known[name]
            if isinstance(command, click.Group) and inner:
                assert f"{name} {inner}" in known, f"{name_of(page)} shows `penstock {name} {inner}`"
                command = known[f"{name} {inner}"]
            options = {option for parameter in command.params for option in parameter.opts}
            for option in re.findall(r"(?<= )--[a-z-]+", text.split(" #")[0].split("`")[0]):
                assert option in options, f"{name_of(page)} shows `penstock {name} {option}`"


def test_targets_of_make_that_pages_show_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in WRITTEN:
        shown = [*inline_code(page), *(line.removeprefix("$ ") for fence in fences(page) for line in fence.body.splitlines())]
        for text in shown:
            if match := re.match(r"make ([a-z0-9-]+)", text):
                assert match[1] in targets, f"{name_of(page)} shows `make {match[1]}`"


def test_every_threat_names_tests() -> None:
    page = DOCS / "security.md"
    for heading in ("### The edge", "### Inside", "### Secrets", "### People"):
        table = rows(page, heading)
        assert len(table) > 3
        for threat, _, tests in table:
            named = codes(tests)
            assert named, f"no test for: {threat}"
            assert all("::" in name for name in named), f"a file is no test: {threat}"
