"""What there is stands in the documentation, and nothing else: plug-ins, commands, codes, paths, operators, choices, reasons, streams."""

from __future__ import annotations

import ast
import re
from typing import get_args

import click
import pytest

from connector_runner.registry import SOURCES
from ingest import registry as ingest_registry
from loader import registry as loader_registry
from loader.rows.layouts import LAYOUTS
from shared.events.outcome import DeadReason
from shared.jetstream import topology
from shared.project.model import Layout, Mode, OnConflict, SchemaPolicy
from shared.rules.operators import OPERATORS
from shared.warnings.declared import WARNED
from tests.meta.pages import DOCS, ROOT, WRITTEN, anchors, codes, command_names, inline_code, rows


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("destinations", loader_registry.destination_types()),
        ("connectors", SOURCES.names()),
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
    assert {page.stem for page in WRITTEN if page.parent == DOCS / folder} == set(names)


@pytest.mark.parametrize("type_name", loader_registry.destination_types())
def test_the_page_of_a_destination_answers_the_same_questions(type_name: str) -> None:
    found = anchors(DOCS / "destinations" / f"{type_name}.md")
    assert {"how-data-is-sent", "permissions", "exactly-once", "known-limits"} <= found


def test_every_command_is_explained_in_a_page_that_people_write() -> None:
    texts = "\n".join(page.read_text(encoding="utf-8") for page in WRITTEN)
    for name, command in command_names().items():
        if not isinstance(command, click.Group):
            assert re.search(rf"penstock {name}\b", texts) or (
                " " in name and re.search(rf"penstock {name.split()[0]}.*\b{name.split()[1]}\b", texts)
            ), f"no page speaks of penstock {name}"
    assert list(command_names())[:2] == ["init", "up"]


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
    hooks = {code for row in rows(DOCS / "protocols" / "webhook.md", "## Who may send") for code in codes(row[1])}
    assert http | hooks >= refusal_codes("Refusal") | {"bad_request"}
    assert hooks >= {"missing_signature", "wrong_signature", "stale_signature", "unsigned", "wrong_token", "webhook_sealed"}
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


def test_every_reason_has_a_place_that_says_what_to_do() -> None:
    found = anchors(DOCS / "reasons.md")
    assert {f"dead-letter-{reason}" for reason in DeadReason} <= found
    assert {f"warning-{each.reason}" for each in WARNED} <= found
    assert all(each.advice and each.meaning for each in (*DeadReason, *WARNED))


def test_the_page_of_the_architecture_knows_every_stream_and_bucket() -> None:
    settings = topology.TopologySettings()
    shown = rows(DOCS / "architecture.md", "## Streams")
    assert [row[0] for row in shown] == [stream.name for stream in topology.streams(settings)]
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for bucket in topology.buckets(settings):
        assert f"`{str(bucket.name).removeprefix('KV_')}`" in text
