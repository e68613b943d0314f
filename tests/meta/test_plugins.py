"""Plug-ins are light to list, complete, and each of them stands in the contract suite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, get_origin, get_type_hints

import msgspec
import pytest
from click.testing import CliRunner

from connector_runner.feeds.registry import FEEDS, OF_RULES
from loader import registry
from loader.contract.events import EventCapabilities
from loader.contract.warehouse import Capabilities
from penstock.command.cli import cli
from shared.errors import ConfigError
from shared.reading.decode import json_schema
from tests.contract.destinations.conftest import SUBJECTS
from tests.contract.destinations.waivers import WAIVERS
from tests.contract.events.conftest import TYPES as EVENT_TYPES
from tests.contract.feeds.conftest import KINDS
from tests.support.destinations.subject import can

ROOT = Path(__file__).parents[2]
DRIVERS = (
    "aiochclient",
    "asyncpg",
    "azure",
    "aiomysql",
    "pymysql",
    "aioboto3",
    "aiobotocore",
    "aiokafka",
    "botocore",
    "duckdb",
    "paho",
    "pyarrow",
    "pgpq",
    "zstandard.backend_cffi",
)
TABLES = {name for name in registry.destination_types() if registry.takes_tables(name) is not None}
CAPABILITIES = ("transactional", "merge", "deletes", "insert_only", "history", "replace", "coalesce", "stream", "evolve")


def test_importing_every_plug_in_loads_no_driver() -> None:
    script = (
        "import sys\nfrom connector_runner.feeds.registry import FEEDS\nfrom loader import registry\n"
        "for name in registry.destination_types(): registry.plugin(name)\n"
        "FEEDS.all()\n"
        f"print([name for name in {DRIVERS!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_listing_the_types_imports_no_plug_in() -> None:
    script = (
        "import sys\nfrom loader import registry\nnames = registry.destination_types()\n"
        "print([name for name in sys.modules if name.split('.')[-1] in names and name.startswith('loader.')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_plug_in_stands_in_the_contract_suite() -> None:
    tables = {type_name for type_name, _ in SUBJECTS.values()}
    assert tables == TABLES, f"rows of SUBJECTS in tests/contract/destinations/conftest.py: {tables ^ TABLES}"
    of_events = set(registry.destination_types()) - TABLES
    assert of_events == EVENT_TYPES, (
        f"SUBJECTS in tests/contract/events/conftest.py, or SERVICES in tests/support/services.py: {of_events ^ EVENT_TYPES}"
    )


def test_a_waiver_stands_for_each_capability_a_plug_in_lacks_and_for_no_other() -> None:
    lacking = {(type_name, capability) for type_name in TABLES for capability in CAPABILITIES if not can(type_name, capability)}
    assert set(WAIVERS) == lacking, f"waivers in tests/contract/destinations/waivers.py: {set(WAIVERS) ^ lacking}"
    assert all(WAIVERS.values())


@pytest.mark.parametrize("type_name", registry.destination_types())
def test_a_plug_in_defines_what_the_contract_asks_for(type_name: str) -> None:
    plugin = registry.plugin(type_name)
    assert isinstance(plugin.CAPABILITIES, Capabilities if type_name in TABLES else EventCapabilities)
    assert issubclass(plugin.OPTIONS, msgspec.Struct)
    assert plugin.OPTIONS.__struct_config__.forbid_unknown_fields
    for name, hint in get_type_hints(plugin.OPTIONS, include_extras=True).items():
        assert get_origin(hint) is Annotated, f"{name} has no description"
        assert any(isinstance(meta, msgspec.Meta) and meta.description for meta in hint.__metadata__), (
            f"{name} has no description"
        )
    assert json_schema(plugin.OPTIONS)


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as refused:
        registry.parse_options("wh", {"type": "oracel"})
    (problem,) = refused.value.problems
    assert problem.path == "destinations.wh.type"
    for name in registry.destination_types():
        assert name in problem.message


def staged(**staging: object) -> dict[str, object]:
    return {"type": "clickhouse", "url": "http://127.0.0.1:8123", "staging": {"type": "s3", **staging}}


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        ({"type": "postgres", "hots": "x"}, "destinations.wh", "hots"),
        ({"type": "postgres", "port": "x"}, "destinations.wh.port", "a whole number"),
        ({"type": "duckdb"}, "destinations.wh", "path"),
        ({"type": "local", "path": "x", "format": "xml"}, "destinations.wh.format", "xml"),
        ({"type": "local", "path": "x", "prefix": "{date}/"}, "destinations.wh", "{table}"),
        ({"type": "local", "path": "x", "prefix": "../{table}"}, "destinations.wh", "below"),
        ({"type": "local", "path": "x", "prefix": "{table}/{minute}"}, "destinations.wh", "minute"),
        ({"type": "s3"}, "destinations.wh", "bucket"),
        ({"type": "s3", "bucket": "s3://events/raw"}, "destinations.wh", "without s3://"),
        ({"type": "s3", "bucket": "events", "prefix": "../{table}"}, "destinations.wh", "below"),
        ({"type": "s3", "bucket": "events", "prefix": "x/" * 149 + "{table}"}, "destinations.wh", "300 bytes"),
        ({"type": "s3", "bucket": "events", "endpoint_url": "minio:9000"}, "destinations.wh.endpoint_url", "https://"),
        (
            {"type": "s3", "bucket": "events", "endpoint_url": "https://key:secret@minio"},
            "destinations.wh.endpoint_url",
            "https://",
        ),
        ({"type": "s3", "bucket": "events", "access_key_id": "k"}, "destinations.wh", "both or neither"),
        ({"type": "s3", "bucket": "events", "session_token": "t"}, "destinations.wh", "access_key_id"),
        ({"type": "s3", "bucket": "events", "kms_key_id": "k"}, "destinations.wh", "aws:kms"),
        ({"type": "s3", "bucket": "events", "timeout": 0}, "destinations.wh", "more than 0"),
        (
            {"type": "azure", "container": "https://a/b", "account": "acme", "sas_token": "s"},
            "destinations.wh",
            "without an address",
        ),
        (
            {"type": "azure", "container": "raw", "account": "A.b", "sas_token": "s"},
            "destinations.wh.account",
            "name of the storage account",
        ),
        ({"type": "azure", "container": "raw", "account": "acme"}, "destinations.wh", "account_key or sas_token"),
        ({"type": "azure", "container": "raw", "account": "acme", "connection_string": "x"}, "destinations.wh", "stands alone"),
        (staged(), "destinations.wh.staging", "the key `bucket` is missing"),
        (staged(bucket="stage", buckt="c"), "destinations.wh.staging", "known keys: bucket"),
        (staged(bucket="stage", prefix="dt=1/*"), "destinations.wh.staging.prefix", "ASCII"),
        (staged(bucket="stage", keep="5m"), "destinations.wh.staging.keep", "1h or more"),
        (staged(type="gs"), "destinations.wh.staging.type", "gs"),
    ],
)
def test_wrong_options_name_their_path(document: dict[str, object], path: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        registry.parse_options("wh", document)
    (problem,) = refused.value.problems
    assert problem.path == path
    assert words in problem.message


REQUIRED = [
    (type_name, field.encode_name)
    for type_name in registry.destination_types()
    for field in msgspec.structs.fields(registry.plugin(type_name).OPTIONS)
    if field.required
]


@pytest.mark.parametrize(("type_name", "option"), REQUIRED)
def test_a_required_option_that_is_missing_is_named_by_plan_with_what_belongs_there(
    type_name: str, option: str, tmp_path: Path
) -> None:
    others = "".join(f", {name}: x" for kind, name in REQUIRED if kind == type_name and name != option)
    file = tmp_path / "penstock.yaml"
    file.write_text(f"sites: {{}}\ndestinations:\n  wh: {{type: {type_name}{others}}}\n")
    said = CliRunner().invoke(cli, ["plan", str(file), "--home", str(tmp_path / "home")])
    assert isinstance(said.exception, ConfigError)
    (line,) = [str(each) for each in said.exception.problems if f"`{option}` is missing" in each.message]
    assert line.startswith("destinations.wh: ")
    hint = get_type_hints(registry.plugin(type_name).OPTIONS, include_extras=True)[option]
    (meaning,) = [meta.description for meta in hint.__metadata__ if isinstance(meta, msgspec.Meta)]
    assert line.endswith(f"is missing: {meaning}")


@pytest.mark.parametrize("type_name", registry.destination_types())
def test_a_destination_without_any_option_is_refused_unless_its_page_says_what_it_reaches_then(type_name: str) -> None:
    if type_name in DEFAULT_PLACES:
        registry.parse_options("wh", {"type": type_name})
    else:
        with pytest.raises(ConfigError, match=r"destinations\.wh"):
            registry.parse_options("wh", {"type": type_name})


DEFAULT_PLACES = {"postgres"}
"""Types whose drivers know a place without being told, by the environment: `PGHOST` and its like."""


def test_every_feed_stands_in_its_contract_suite_and_has_its_page() -> None:
    assert set(FEEDS.names()) == set(KINDS), "KINDS in tests/contract/feeds/conftest.py"
    assert {page.stem for page in (ROOT / "docs/feeds").glob("*.md")} == set(FEEDS.names())


@pytest.mark.parametrize("type_name", FEEDS.names())
def test_a_feed_defines_what_the_contract_asks_for(type_name: str) -> None:
    options = FEEDS.get(type_name).OPTIONS
    assert options.__struct_config__.forbid_unknown_fields
    assert not OF_RULES & set(options.__struct_fields__), "an option of every feed has this name"
    for name, hint in get_type_hints(options, include_extras=True).items():
        assert any(isinstance(meta, msgspec.Meta) and meta.description for meta in getattr(hint, "__metadata__", ())), name
