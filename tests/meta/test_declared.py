"""What is declared is used: metrics are written, reasons given, streams, options, settings and capabilities read."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
import pytest

from loader import registry
from loader.contract.warehouse import Capabilities, Environment, LoadPlan
from penstock.reference import SETTINGS
from router.alerts.contract import AlertRules
from shared.events import outcome
from shared.events.outcome import DeadReason, DropReason
from shared.jetstream import topology
from shared.project.identity import Identity
from shared.project.model import Batch, Connection, DeadLimit, Key, Project, Site, SiteLimits
from shared.telemetry import declared, names
from tests.contract.destinations import test_without_transactions

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("shared", "ingest", "router", "functions_runtime", "loader", "connector_runner")
PLUG_INS = {name: Path(inspect.getfile(cast("Any", registry.plugin(name)))) for name in registry.destination_types()}


def nodes(*places: str) -> Iterator[tuple[Path, ast.AST]]:
    for place in places:
        for file in sorted((ROOT / place).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                yield file, node


def read(file: Path, node: ast.AST) -> Iterator[tuple[Path, str]]:
    """Yields the attribute that is read here; a method that is called is none."""
    called = [node.func] if isinstance(node, ast.Call) else []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load) and child not in called:
            yield file, child.attr


def _is_of(file: Path, plug_in: Path) -> bool:
    return plug_in in (file, file.parent / "__init__.py")


DECLARING = {
    *Path(inspect.getfile(declared)).parent.glob("*.py"),
    Path(inspect.getfile(names)),
    Path(inspect.getfile(outcome)),
}


# not when the file is imported: each process that collects tests would pay for it
@cache
def all_nodes() -> list[tuple[Path, ast.AST]]:
    return list(nodes(*SERVICES, "penstock"))


@cache
def of_services() -> list[ast.AST]:
    files = {file for file, _ in all_nodes() if file not in DECLARING and not file.is_relative_to(ROOT / "penstock")}
    return [node for file, node in all_nodes() if file in files]


@cache
def read_somewhere() -> frozenset[tuple[Path, str]]:
    return frozenset(found for file, node in all_nodes() for found in read(file, node))


@cache
def read_by_core() -> frozenset[str]:
    return frozenset(name for file, name in read_somewhere() if not any(_is_of(file, each) for each in PLUG_INS.values()))


def test_every_metric_is_written() -> None:
    written = {
        node.value
        for file, node in all_nodes()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and file not in DECLARING
    }
    assert {metric.name for metric in declared.METRICS} - written == set()


def test_every_reason_is_given_by_some_stage() -> None:
    given = {
        (node.value.id, node.attr)
        for node in of_services()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id.endswith("Reason")
    }
    declared = {("DropReason", each.name) for each in DropReason} | {("DeadReason", each.name) for each in DeadReason}
    assert declared - given == set()


def test_every_stream_and_bucket_is_used() -> None:
    used = {
        node.attr
        for file, node in all_nodes()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "topology"
    }
    names = {value: name for name, value in vars(topology).items() if name.isupper() and isinstance(value, str)}
    settings = topology.TopologySettings()
    made = [str(each.name) for each in (*topology.streams(settings), *topology.buckets(settings))]
    assert [name for name in made if names[name.removeprefix("KV_")] not in used] == []


@pytest.mark.parametrize(
    "type_",
    [Project, Site, SiteLimits, Key, Connection, Batch, DeadLimit, Identity, AlertRules, *(each for _, _, each in SETTINGS)],
)
def test_every_option_and_every_setting_is_read(type_: type[msgspec.Struct]) -> None:
    assert [each.name for each in msgspec.structs.fields(type_) if each.name not in read_by_core()] == []


@pytest.mark.parametrize("type_name", registry.destination_types())
def test_every_option_of_a_destination_is_read_by_its_plug_in(type_name: str) -> None:
    struct = registry.plugin(type_name).OPTIONS
    # options that several plug-ins share are declared beside the code that reads them
    shared = {
        Path(inspect.getfile(each)).parent
        for each in struct.__mro__[1:]
        if each.__module__.startswith(("shared.", "loader.calls."))
    }
    mine = {name for file, name in read_somewhere() if _is_of(file, PLUG_INS[type_name]) or file.parent in shared}
    assert [each.name for each in msgspec.structs.fields(struct) if each.name not in mine] == []


def test_every_capability_is_read_and_differs_between_destinations() -> None:
    every = [found for name in registry.destination_types() if (found := registry.takes_tables(name)) is not None]
    every.append(test_without_transactions.CAPABILITIES)
    for each in dataclasses.fields(Capabilities):
        assert each.name in read_by_core(), each.name
        assert any(getattr(one, each.name) != getattr(every[0], each.name) for one in every), each.name


def test_every_part_of_the_environment_is_used_by_a_plug_in() -> None:
    used = {
        name
        for file, name in read_somewhere()
        if any(file.is_relative_to(ROOT / "loader" / room) for room in ("warehouses", "files", "cloud"))
    }
    assert [each.name for each in dataclasses.fields(Environment) if each.name not in used] == []


def test_every_part_of_a_load_plan_is_read_and_given() -> None:
    for each in dataclasses.fields(LoadPlan):
        assert each.name in {name for _, name in read_somewhere()}, each.name
        assert each.default is dataclasses.MISSING, f"{each.name}: a default is a part that nobody needs to give"


def test_the_type_of_metric_names_lists_every_metric_by_its_kind() -> None:
    kinds = {"counter": names.CounterName, "gauge": names.GaugeName, "histogram": names.HistogramName}
    for kind, type_ in kinds.items():
        assert list(get_args(type_)) == [metric.name for metric in declared.METRICS if metric.kind == kind]
