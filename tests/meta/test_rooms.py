"""The rooms of each package: who may import whom, which are pure, how many modules a room holds, what a plug-in may use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS: dict[str, tuple[str, ...]] = {
    "shared": (
        "errors", "backoff", "locks", "scratch", "clock", "tasks", "tether", "threads", "jetstream", "events", "reading", "driving", "stores", "plugins", "settings", "secrets", "telemetry",
        "syncs", "devices", "project", "snowplow", "rules", "streams", "forget", "archive", "warnings", "catalogue", "service", "workers",
    ),
    "ingest": (
        "lookups", "contract", "webhooks", "clients", "browser", "limits", "journal", "trackers", "intake", "judge", "deliveries", "http", "protocols", "registry", "openapi", "settings", "listen",
        "readiness", "service", "family", "processes", "__main__",
    ),
    "router": ("plans", "rules", "trace", "archive", "window", "settings", "layouts", "forwarding", "catalogue", "shards", "alerts", "room", "forgetting", "replay", "problems", "reading", "site", "service", "__main__"),
    "loader": (
        "contract", "types", "rows", "fitting", "watch", "queue", "objects", "calls", "links", "sql", "servers", "warehouses", "files", "cloud", "queues", "registry",
        "delivery", "syncs", "forgetting", "settings",
        "service", "__main__",
    ),
    "functions_runtime": ("settings", "sandbox", "rules", "host", "lookups", "definition", "revealed", "again", "hydration", "outcomes", "stitcher", "connection", "forgetting", "service", "__main__"),
    "connector_runner": ("contract", "json_rows", "rules", "programs", "airbyte", "singer", "sql", "sources", "registry", "settings", "opened", "feeds", "syncs", "service", "__main__"),
    "penstock": (
        "probe", "postponed", "source", "deployed", "stack", "control.wording", "control.moments", "control.metrics", "control.reach", "control.archives", "control.lost", "control.runs", "control.forgetting", "control.suppressing", "control.catalogue", "control.data", "control.functions", "control.connectors", "control.syncs", "control.letters",
        "control.explain", "control.project", "control.status", "terminal", "demo", "command", "option_words", "metric_pages", "connector_catalogue", "reference", "__main__",
    ),
}  # fmt: skip
"""Rooms and modules of each package, the lowest first. A module imports from its own room and from those before it."""

PURE = (
    "ingest/judge",
    "router/plans",
    "ingest/deliveries",
    "ingest/webhooks",
    "router/rules",
    "loader/types",
    "loader/rows",
    "loader/fitting",
    "loader/sql",
    "loader/calls",
    "shared/reading",
    "shared/rules",
    "functions_runtime/rules",
    "router/alerts/channels",
    "router/alerts/judge",
    "connector_runner/airbyte",
    "connector_runner/rules",
    "connector_runner/feeds/rules",
    "connector_runner/singer",
)
IMPURE = re.compile(
    r"(asyncio|concurrent|logging|os|pathlib|random|secrets|socket|subprocess|tempfile|threading|time|uuid"
    r"|shared\.(clock|driving\.network|driving\.watch|jetstream|service|settings|tasks|telemetry|threads))(\.|$)"
)
CLOCKS = {"now", "today", "utcnow"}

LARGEST_ROOM = 12
"""More modules at one level want a room of their own."""
VERBS = "penstock/command/verbs"
"""A module for each group of commands; `penstock/command/cli.py` lists them."""

PLUGINS: dict[str, str] = {
    "ingest/protocols": r"ingest\.(contract|lookups|judge|clients|browser|webhooks|deliveries|protocols)(\.|$)|shared\.",
    "shared/devices/kinds": r"shared\.",
    "loader/warehouses": r"loader\.(contract|sql|servers|types|warehouses)(\.|$)|shared\.",
    "loader/files": r"loader\.(contract|objects|files)(\.|$)|shared\.",
    "loader/queues": r"loader\.(contract|calls|links|cloud|queues)(\.|$)|shared\.",
    "loader/cloud": r"loader\.(contract|calls|links|cloud)(\.|$)|shared\.",
    "connector_runner/sources": r"connector_runner\.(contract|programs|airbyte|singer|sql|sources)(\.|$)|shared\.",
    "connector_runner/feeds/kinds": r"connector_runner\.feeds\.(contract|kinds)(\.|$)|shared\.",
    "router/alerts/channels": r"router\.alerts\.(contract|kit|channels)(\.|$)|shared\.",
    "loader/rows/layouts": r"loader\.(contract|types|rows\.layouts)(\.|$)|shared\.",
}
"""What the plug-ins of a folder may import of ours: their contract, the kit of their kind, and the kernel."""


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yields every module that a file imports, also where it imports it as a name of its package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                place = ROOT / inner.replace(".", "/")
                yield inner if place.is_dir() or place.with_suffix(".py").exists() else node.module


def layer(package: str, name: str) -> int | None:
    """Returns the place of a module in its package's layers; None for the package itself."""
    inner = name.removeprefix(package).lstrip(".")
    for place, room in enumerate(LAYERS[package]):
        if inner == room or inner.startswith(f"{room}."):
            return place
    assert not inner, f"{name} is in no layer of tests/meta/test_rooms.py"
    return None


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_no_import_runs_back_up(package: str) -> None:
    for path in modules(package):
        if dotted(path) == f"{package}.control":
            continue
        own = layer(package, dotted(path))
        for name in imported(path):
            if own is not None and name.split(".")[0] == package:
                other = layer(package, name)
                assert other is None or other <= own, f"{path.relative_to(ROOT)} imports {name}, which stands above it"


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_has_no_clock_socket_task_or_thread(room: str) -> None:
    for path in modules(room):
        where = path.relative_to(ROOT)
        for name in imported(path):
            assert not IMPURE.match(name), f"{where} imports {name}"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.attr not in CLOCKS or node.value.id not in ("datetime", "date"), (
                    f"{where} line {node.lineno} reads a clock"
                )
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{where} waits"


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_a_room_holds_about_a_dozen_modules(package: str) -> None:
    for folder in {path.parent for path in modules(package)}:
        held = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]
        one_each = str(folder.relative_to(ROOT)) in (*PLUGINS, VERBS)  # one file each, however many there are
        assert len(held) <= LARGEST_ROOM or one_each, f"{folder.relative_to(ROOT)} holds {len(held)} modules"
        assert (folder / "__init__.py").exists(), f"{folder.relative_to(ROOT)} does not say what it holds"


@pytest.mark.parametrize("folder", sorted(PLUGINS))
def test_a_plugin_imports_its_contract_its_kit_and_the_kernel(folder: str) -> None:
    allowed = re.compile(PLUGINS[folder])
    for path in modules(folder):
        for name in imported(path):
            if name.split(".")[0] in LAYERS:
                assert allowed.match(name), f"{path.relative_to(ROOT)} imports {name}"


def test_a_plugin_that_takes_events_has_no_clock_socket_task_or_thread() -> None:
    for path in modules("loader/cloud"):
        for name in imported(path):
            assert not IMPURE.match(name), f"{path.relative_to(ROOT)} imports {name}"
            assert not name.startswith("aiohttp"), f"{path.relative_to(ROOT)} imports {name}"
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Await), f"{path.relative_to(ROOT)} waits"
