"""The documentation says what the code does: generated pages are fresh, links lead somewhere, and what pages list is what exists.

The quick start has a test of its own, `tests/meta/test_quickstart.py`, which runs it.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.parse import unquote

import click
import jsonschema
import pytest
import yaml

from ingest import registry as ingest_registry
from loader import registry as loader_registry
from loader.contract.warehouse import Capabilities, Kind
from loader.rows.layouts import LAYOUTS
from loader.types.names import Namer
from penstock import reference
from penstock.control.project.projects import check_document
from penstock.control.project.schema import project_schema
from router.rules.operators import OPERATORS
from router.rules.where import compile_where
from shared.errors import ConfigError
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.project.model import Layout, Mode, OnConflict, SchemaPolicy
from shared.telemetry.declared import METRICS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
GENERATED = set(reference.pages())
WRITTEN = [page for page in PAGES if not (page.is_relative_to(DOCS) and str(page.relative_to(DOCS)) in GENERATED)]
"""Pages that people write."""

FOLDERS = ("shared", "ingest", "router", "loader", "penstock", "bench", "tests", "docs", "examples")
CODE = ("shared", "ingest", "router", "loader", "penstock")


class Fence(NamedTuple):
    """A block of code in a page."""

    page: Path
    line: int
    language: str
    body: str


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fences(page: Path) -> list[Fence]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Fence(page, text[: each.start()].count("\n") + 1, each[1], each[2]) for each in found]


def prose(page: Path) -> str:
    """Returns a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """Returns what the headings of a page can be linked by, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).strip().replace(" ", "-") for title in titles]
    return {
        title if plain[:place].count(title) == 0 else f"{title}-{plain[:place].count(title)}" for place, title in enumerate(plain)
    }


def rows(page: Path, heading: str) -> list[list[str]]:
    """Returns the cells of the first table below a heading."""
    _, _, below = page.read_text(encoding="utf-8").partition(f"{heading}\n")
    assert below, f"{name_of(page)} has no heading {heading!r}"
    table: list[list[str]] = []
    for line in below.splitlines():
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif table:
            break
        elif line.startswith("#"):
            pytest.fail(f"{name_of(page)}: no table below {heading!r}")
    return [[cell.strip("| ") for cell in row] for row in table[2:]]


def codes(cells: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cells)


# -- generated pages


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


# -- links and names


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


# -- completeness


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("destinations", loader_registry.destination_types()),
        (
            "protocols",
            [
                *(each.NAME for each in ingest_registry.http_protocols()),
                *(each.NAME for each in ingest_registry.socket_protocols()),
            ],
        ),
    ],
)
def test_every_plug_in_has_its_page_and_every_page_its_plug_in(folder: str, names: list[str]) -> None:
    assert {page.stem for page in (DOCS / folder).glob("*.md")} == set(names)


@pytest.mark.parametrize("type_name", loader_registry.destination_types())
def test_the_page_of_a_destination_answers_the_same_questions(type_name: str) -> None:
    found = anchors(DOCS / "destinations" / f"{type_name}.md")
    assert {"how-data-is-sent", "permissions", "exactly-once", "known-limits"} <= found


def command_names() -> dict[str, click.Command]:
    return {path.removeprefix("penstock "): command for path, command in reference.commands()}


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


def test_every_command_is_explained_in_a_page_that_people_write() -> None:
    texts = "\n".join(page.read_text(encoding="utf-8") for page in WRITTEN)
    for name, command in command_names().items():
        if not isinstance(command, click.Group):
            assert re.search(rf"penstock {name}\b", texts) or (
                " " in name and re.search(rf"penstock {name.split()[0]}.*\b{name.split()[1]}\b", texts)
            ), f"no page speaks of penstock {name}"
    assert list(command_names())[:2] == ["init", "up"]


def test_targets_of_make_that_pages_show_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in WRITTEN:
        shown = [*inline_code(page), *(line.removeprefix("$ ") for fence in fences(page) for line in fence.body.splitlines())]
        for text in shown:
            if match := re.match(r"make ([a-z0-9-]+)", text):
                assert match[1] in targets, f"{name_of(page)} shows `make {match[1]}`"


def refusal_codes(function: str) -> set[str]:
    """Returns the codes that the edge's code gives to refusals made by `function`."""
    found: set[str] = set()
    for path in (ROOT / "ingest").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
                texts = [each.value for each in node.args[:2] if isinstance(each, ast.Constant) and isinstance(each.value, str)]
                found.update(texts[:1])
    return found


def test_every_code_of_the_edge_is_in_its_protocols_page() -> None:
    http = {code for row in rows(DOCS / "protocols" / "segment.md", "## Answers") for code in codes(row[1])}
    assert http >= refusal_codes("Refusal") | {"bad_request"}
    socket = {code for row in rows(DOCS / "protocols" / "websocket.md", "## Errors") for code in codes(row[0])}
    assert socket >= refusal_codes("SocketProblem") | {"unknown_key", "wrong_secret", "site_disabled", "rate_limited"}
    assert refusal_codes("Refusal")
    assert refusal_codes("SocketProblem")


def test_every_path_of_a_protocol_is_in_its_page() -> None:
    for protocol in ingest_registry.http_protocols():
        shown = set(inline_code(DOCS / "protocols" / f"{protocol.NAME}.md"))
        paths = {word for code in shown for word in code.split()}
        assert {route.path for route in protocol.ROUTES} <= paths
    for socket in ingest_registry.socket_protocols():
        assert f"`{socket.PATH}`" in (DOCS / "protocols" / f"{socket.NAME}.md").read_text(encoding="utf-8")


def test_every_operator_of_where_is_in_the_page_and_no_other() -> None:
    shown = [code for row in rows(DOCS / "routing.md", "## Conditions") for code in codes(row[0])]
    assert sorted(shown) == sorted(OPERATORS)


def test_every_choice_of_a_connection_is_explained() -> None:
    page = DOCS / "loading.md"
    for heading, choices in (
        ("## Layouts", Layout),
        ("## Values that do not fit", OnConflict),
        ("`schema_policy` decides which changes of tables are allowed.", SchemaPolicy),
        ("## Modes", Mode),
    ):
        assert sorted(codes(row[0])[0] for row in rows(page, heading)) == sorted(get_args(choices))
    assert set(LAYOUTS) == set(get_args(Layout))


def test_every_reason_of_a_dead_letter_has_advice() -> None:
    advised = {
        code
        for row in rows(DOCS / "operations.md", "What the reasons mean: [reasons.md](reasons.md). What to do:")
        for code in codes(row[0])
    }
    assert advised == {str(reason) for reason in DeadReason}


def test_the_page_of_the_architecture_knows_every_stream_and_bucket() -> None:
    settings = topology.TopologySettings()
    shown = rows(DOCS / "architecture.md", "## Streams")
    assert [row[0] for row in shown] == [stream.name for stream in topology.streams(settings)]
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for bucket in topology.buckets(settings):
        assert f"`{str(bucket.name).removeprefix('KV_')}`" in text


# -- what pages say of values


def test_names_become_what_the_page_says() -> None:
    namer = Namer(Capabilities(63, "bytes", transactional=True, merge="now", stream=True, evolve=True))
    for row in rows(DOCS / "loading.md", "### Names"):
        (key,), (column,) = codes(row[0]), codes(row[1])
        assert namer.column([namer.part(key)]) == column


def test_values_convert_where_the_page_says_they_do_and_nowhere_else() -> None:
    import pyarrow as pa

    from loader.types.convert import convert
    from loader.types.lattice import ARROW

    samples: Mapping[Kind, list[Any]] = {
        Kind.BOOLEAN: [True, False],
        Kind.BIGINT: [0, 1, 7],
        Kind.DOUBLE: [0.0, 1.0, 1.5],
        Kind.DECIMAL: [0, 1, 10**20],
        Kind.NUMBER: ["12345678901234567.0", "0.10000000000000001"],
        Kind.TEXT: ["1", "true", "1.5", "2026-03-01T12:00:00Z", "2026-03-01", "x"],
        Kind.TIMESTAMP: [0, 1_000_000],
        Kind.JSON: ['{"a":1}', "1"],
    }
    page = DOCS / "loading.md"
    header = re.search(r"^\| from \\ to \|(.*)\|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert header is not None
    targets = [Kind(cell.strip()) for cell in header[1].split("|")]
    table = rows(page, "### A column that exists")
    assert [Kind(row[0]) for row in table] == list(samples)
    for row in table:
        source = Kind(row[0])
        for target, cell in zip(targets, row[1:], strict=True):
            array = pa.array(samples[source], type=ARROW[source])
            _, bad = convert(array, source, target)
            converts = bad is None or not bad.all()
            assert converts == (cell != "no"), f"{source} to {target}: the page says {cell!r}"
            assert (cell == "=") == (source is target) or (cell == "=" and bad is None)


# -- projects in pages and examples


class _AnyVariable(defaultdict[str, str]):
    """An environment in which every variable is set."""

    def __init__(self) -> None:
        super().__init__(lambda: "/somewhere")

    def __missing__(self, name: str) -> str:
        if name == "MYSQL_DSN":
            return "mysql://somewhere/shop"
        return "postgresql://somewhere" if name.endswith("DSN") else super().__missing__(name)

    def __contains__(self, _: object) -> bool:
        return True


def yaml_blocks() -> Iterator[Fence]:
    for page in WRITTEN:
        yield from (fence for fence in fences(page) if fence.language == "yaml")
        for fence in fences(page):
            for match in re.finditer(r"^cat > \S+\.yaml <<'END'\n(.*?)^END$", fence.body, re.MULTILINE | re.DOTALL):
                yield Fence(page, fence.line, "yaml", match[1])


BLOCKS = list(yaml_blocks())


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{name_of(block.page)}:{block.line}")
def test_yaml_in_pages_is_part_of_a_project_that_can_be_applied(block: Fence) -> None:
    document = yaml.safe_load(block.body)
    assert isinstance(document, dict)
    if "where" in document:
        assert compile_where(document["where"]) is not None
        return
    jsonschema.validate(document, project_schema())
    for connection in (document.get("connections") or {}).values():
        document.setdefault("sites", {}).setdefault(connection["site"], {})
        document.setdefault("destinations", {}).setdefault(connection["destination"], {"type": "duckdb", "path": "x"})
    check_document(document, _AnyVariable())


def test_there_are_projects_in_pages() -> None:
    assert len(BLOCKS) > 8


def test_a_wrong_project_would_be_found() -> None:
    with pytest.raises(ConfigError):
        check_document({"connections": {"a": {"site": "none", "destination": "none"}}}, {})


# -- security


def test_every_threat_names_tests() -> None:
    page = DOCS / "security.md"
    for heading in ("### The edge", "### Inside", "### Secrets"):
        table = rows(page, heading)
        assert len(table) > 3
        for threat, _, tests in table:
            named = codes(tests)
            assert named, f"no test for: {threat}"
            assert all("::" in name for name in named), f"a file is no test: {threat}"
