"""The projects in `examples/` are good, and the reference leaves nothing out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

import jsonschema
import msgspec
import pytest

from loader import registry
from loader.calls.options import Batching, Sending
from penstock.control.project.projects import check_document, read_document
from penstock.control.project.schema import project_schema
from shared.project.functions import Function, PrivacyRule
from shared.project.lookups import Lookup, LookupUse
from shared.project.model import Connection, Key, Site
from shared.project.read import decode_project
from shared.project.tracking import PlannedEvent, TrackingPlan
from shared.reading.decode import field_names

EXAMPLES = Path(__file__).parents[2] / "examples"
PROJECTS = sorted(EXAMPLES.glob("*/penstock.yaml"))
SECRETS = {
    "SHOP_SECRET": "s",
    "PG_DSN": "postgresql://localhost/x",
    "PG_PASSWORD": "p",
    "CLICKHOUSE_PASSWORD": "x",
    "MYSQL_DSN": "mysql://localhost/x",
    "MYSQL_PASSWORD": "p",
    "S3_KEY_ID": "k",
    "S3_SECRET": "s",
    "AZURE_KEY": "aw==",
    "AZURE_SAS": "sv=1",
    "AZURE_CONNECTION_STRING": "BlobEndpoint=https://acme;SharedAccessSignature=sv=1",
}


def test_there_is_a_minimal_and_a_reference_project_and_a_page_that_lists_all() -> None:
    names = {file.parent.name for file in PROJECTS}
    assert {"minimal", "reference", "shop"} <= names
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}/penstock.yaml)" in page for name in names)


@pytest.mark.parametrize("file", PROJECTS, ids=lambda file: file.parent.name)
def test_every_example_can_be_applied(file: Path) -> None:
    document = read_document(file)
    assert decode_project(check_document(document, SECRETS, file.parent)).connections
    jsonschema.Draft202012Validator(project_schema()).validate(document)


def test_the_minimal_project_needs_no_variable() -> None:
    check_document(read_document(EXAMPLES / "minimal/penstock.yaml"), {})


def test_the_reference_has_every_key() -> None:
    document = read_document(EXAMPLES / "reference/penstock.yaml")
    assert used(document["sites"].values()) == set(field_names(Site))
    assert used(key for site in document["sites"].values() for key in site["keys"]) == set(field_names(Key))
    assert used(document["connections"].values()) == set(field_names(Connection))
    for struct, name, entries in (
        (Site, "limits", "sites"),
        (Site, "snowplow", "sites"),
        (Connection, "batch", "connections"),
        (Connection, "dead_limit", "connections"),
        (Connection, "identity", "connections"),
    ):
        parts = (entry.get(name, {}) for entry in document[entries].values())
        assert used(parts) == set(field_names(inner(struct, name)))
    assert used(document["tracking_plans"].values()) == set(field_names(TrackingPlan))
    events = (event for plan in document["tracking_plans"].values() for event in plan["events"].values())
    assert used(events) == set(field_names(PlannedEvent))
    assert used(document["functions"].values()) == set(field_names(Function))
    assert used(document["lookups"].values()) == set(field_names(Lookup))
    uses = (use for connection in document["connections"].values() for use in connection.get("lookups", ()))
    assert used(uses) == set(field_names(LookupUse))
    rules = (rule for connection in document["connections"].values() for rule in connection.get("privacy", ()))
    assert used(rules) == set(field_names(PrivacyRule))
    for name in registry.destination_types():
        options = [entry for entry in document["destinations"].values() if entry["type"] == name]
        options_of = registry.plugin(name).OPTIONS
        shared = set(field_names(Batching)) if issubclass(options_of, Sending) else set()  # stand once, below
        assert used(options) | shared >= {"type", *field_names(options_of)}
    services = [
        entry for entry in document["destinations"].values() if issubclass(registry.plugin(entry["type"]).OPTIONS, Sending)
    ]
    assert used(services) >= set(field_names(Batching))


def used(entries: Any) -> set[str]:
    return {key for entry in entries for key in entry}


def inner(struct: type, name: str) -> Any:
    found = next(field.type for field in msgspec.structs.fields(struct) if field.encode_name == name)
    while get_origin(found) is not None:  # Annotated, or a choice of which the Struct is the first
        found = get_args(found)[0]
    return found
