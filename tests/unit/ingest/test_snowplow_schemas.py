"""Schemas of a folder: data that fit, that do not, and that no schema knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest

from ingest.clients.keys import KeyIndex
from ingest.contract import Parsed, Refusal
from ingest.trackers.micro import Micro
from ingest.trackers.schemas import Schemas, read_folder, schemas_of
from shared.project.model import Key, Project, Site
from shared.project.snowplow import Snowplow
from tests.unit.ingest.desks import CountingDesk
from tests.unit.ingest.snowplows import coded, described, entities, parsed, payload, post

ORDER = "iglu:com.acme/order/jsonschema/1-0-0"
SCHEMA = {
    "$schema": "http://iglucentral.com/schemas/com.snowplowanalytics.self-desc/schema/jsonschema/1-0-0#",
    "self": {"vendor": "com.acme", "name": "order", "format": "jsonschema", "version": "1-0-0"},
    "type": "object",
    "properties": {"total": {"type": "number", "minimum": 0}, "mail": {"type": ["string", "null"], "format": "email"}},
    "required": ["total"],
    "additionalProperties": False,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A registry with one schema, one that refers to an address, and files that are none."""
    place = tmp_path / "schemas" / "com.acme" / "order" / "jsonschema"
    place.mkdir(parents=True)
    (place / "1-0-0").write_text(json.dumps(SCHEMA))
    (place / "1-0-1.json").write_text(json.dumps({"$ref": "http://127.0.0.1:1/x"}))
    (place / "2-0-0").write_text("{")
    (place / "README").write_text("no schema")
    return tmp_path


def send(folder: Path, on_invalid: Literal["warn", "dead_letter"], *events: Any) -> Parsed:
    shop = Site(keys=[Key(id="web")], snowplow=Snowplow(schemas=str(folder), on_invalid=on_invalid))
    project = Project(sites={"shop": shop})
    desk = CountingDesk(project)
    desk._keys = KeyIndex(project, schemas=schemas_of(project))  # the desk of tests has no folder
    return parsed(post(payload(*events), x_write_key="web")._replace(host=""), desk)


def order(total: Any, schema: str = ORDER) -> dict[str, str]:
    return {"e": "ue", "ue_px": coded(described(schema, {"total": total}))}


def test_a_folder_is_read_as_iglus_registries_are(folder: Path) -> None:
    assert sorted(read_folder(str(folder))) == [
        "iglu:com.acme/order/jsonschema/1-0-0",
        "iglu:com.acme/order/jsonschema/1-0-1",
        "iglu:com.acme/order/jsonschema/2-0-0",
    ]
    assert read_folder(str(folder / "schemas")) == read_folder(str(folder))
    assert read_folder(str(folder / "nowhere")) == {}


def test_data_that_do_not_fit_are_counted_or_kill_their_event_alone(folder: Path) -> None:
    page = {"e": "pv", "co": json.dumps(entities((ORDER, {"total": -1})))}
    warned = send(folder, "warn", order(1), order("x"), page)
    assert (len(warned.heads), warned.unfit, warned.unknown_schemas) == (3, 2, 0)
    dead = send(folder, "dead_letter", order(1), order("x"), page)
    assert [head.event for head in dead.heads] == ["order"]
    assert [(each.position, each.reason.value) for each in dead.rejects] == [(1, "schema_violation"), (2, "schema_violation")]
    assert dead.rejects[0].detail == f'{ORDER}: total: "x" is not of type "number"'


def test_an_unknown_schema_is_counted_and_never_an_obstacle(folder: Path) -> None:
    others = ("iglu:com.acme/order/jsonschema/1-0-1", "iglu:com.acme/order/jsonschema/2-0-0", "iglu:no/one/jsonschema/1-0-0")
    found = send(folder, "dead_letter", *(order("x", each) for each in others))
    assert (len(found.heads), found.unknown_schemas, found.rejects) == (3, 3, [])
    assert send(folder / "nowhere", "dead_letter", order("x")).unknown_schemas == 1


def test_made_up_names_take_no_memory() -> None:
    schemas = Schemas({}, "warn")
    for number in range(100):
        with pytest.raises(KeyError):
            schemas.fault(f"iglu:a/b{number}/jsonschema/1-0-0", b"1")
    assert schemas._made == {}  # what it keeps


def test_a_file_that_cannot_be_read_leaves_out_itself_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "1-0-0":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert sorted(read_folder(str(folder))) == ["iglu:com.acme/order/jsonschema/1-0-1", "iglu:com.acme/order/jsonschema/2-0-0"]


def test_micro_keeps_a_bad_event_however_many_good_ones_come() -> None:
    micro = Micro(most_bytes=4000)
    good = parsed(post(payload(*[{"e": "pv", "eid": str(UUID(int=n))} for n in range(100)]), x_write_key="web"), CountingDesk())
    micro.note(good, 0.0)
    assert 0 < micro.counts()["good"] < 100
    micro.note_refusal(post(b"{"), Refusal(400, "invalid_json", "no JSON"), "snowplow")
    micro.note(good, 0.0)
    assert micro.counts()["bad"] == 1
