"""What pages say of values and projects holds: names, conversions, and every block of YAML can be applied."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from loader.contract.warehouse import Capabilities, Kind
from loader.types.names import Namer
from penstock.control.project.projects import check_document
from penstock.control.project.schema import project_schema
from router.rules.where import compile_where
from shared.errors import ConfigError
from tests.meta.pages import DOCS, WRITTEN, Fence, codes, fences, name_of, rows


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


class _AnyVariable(defaultdict[str, str]):
    """An environment in which every variable is set."""

    def __init__(self) -> None:
        super().__init__(lambda: "/somewhere")

    def __missing__(self, name: str) -> str:
        if name == "MYSQL_DSN":
            return "mysql://somewhere/shop"
        if name.endswith("_URL"):
            return "https://example.com/somewhere"
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
def test_yaml_in_pages_is_part_of_a_project_that_can_be_applied(block: Fence, tmp_path: Path) -> None:
    document = yaml.safe_load(block.body)
    assert isinstance(document, dict)
    if "where" in document:
        assert compile_where(document["where"]) is not None
        return
    jsonschema.validate(document, project_schema())
    for connection in (document.get("connections") or {}).values():
        if "site" in connection:
            document.setdefault("sites", {}).setdefault(connection["site"], {})
        document.setdefault("destinations", {}).setdefault(connection["destination"], {"type": "duckdb", "path": "x"})
    for feed in (document.get("feeds") or {}).values():
        document.setdefault("sites", {}).setdefault(feed["site"], {})
    for name, function in (document.get("functions") or {}).items():
        if "file" in function:
            (tmp_path / function["file"]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / function["file"]).write_text(f"export default (event) => ({{...event, by: '{name}'}});")
    for connector in (document.get("connectors") or {}).values():
        for option in ("file", "manifest"):
            if isinstance(connector.get(option), str):
                (tmp_path / connector[option]).write_text("version: 1\n")
    check_document(document, _AnyVariable(), tmp_path)


def test_there_are_projects_in_pages() -> None:
    assert len(BLOCKS) > 8


def test_a_wrong_project_would_be_found() -> None:
    with pytest.raises(ConfigError):
        check_document({"connections": {"a": {"site": "none", "destination": "none"}}}, {})
