"""The project file: what people write is read strictly, and every error names its place."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.project.model import Project
from shared.project.read import load_project
from shared.project.snapshot import hash_secret, resolve
from shared.project.variables import interpolate
from shared.reading.decode import json_schema
from shared.reading.units import ByteSize, Duration
from shared.settings import ServiceSettings, read_settings

GOOD = """
sites:
  shop:
    keys: [{id: shop-web, kind: browser}, {id: shop-api, kind: server, secret: "${SHOP_SECRET}"}]
    origins: ["https://shop.example.com"]
    batch_period: 1m
destinations:
  wh: {type: postgres, dsn: "${PG_DSN:-postgres://localhost/x}", schema: shop}
connections:
  shop-wh:
    site: shop
    destination: wh
    mode: batch
    batch: {period: 5m, max_rows: 100000, max_bytes: 64MiB}
    layout: segment
    table: "{{ event.type }}"
    primary_key: [message_id]
    where: [{field: type, in: [track, page]}, {field: properties.total, gt: 0}]
"""


def test_a_project_file_is_read_with_units_and_variables() -> None:
    project = load_project(GOOD, {"SHOP_SECRET": "s3cret"})
    assert project.sites["shop"].keys[1].secret == "s3cret"
    assert project.sites["shop"].batch_period == Duration(60)
    assert project.connections["shop-wh"].batch.max_bytes == 64 * 1024 * 1024
    assert project.destinations["wh"]["dsn"] == "postgres://localhost/x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sites: {shop: {keyz: []}}", "sites.shop: unknown key `keyz`; did you mean `keys`? known keys: keys, domains"),
        ("sites: {shop: {limits: {event_byte: 1}}}", "sites.shop.limits: unknown key `event_byte`; did you mean `event_bytes`?"),
        (
            "sites: {shop: {keys: [{idd: a}]}}",
            "sites.shop.keys[0]: unknown key `idd`; did you mean `id`? known keys: id, kind, secret",
        ),
        (
            "sites: {shop: {ip: trunc}}",
            "sites.shop.ip: expected one of keep, truncate, drop, got 'trunc'; did you mean `truncate`?",
        ),
        ("sites: {shop: {origins: a.example}}", "sites.shop.origins: expected a list, got a text"),
        ("sites: {shop: {keys: [{id: a, kind: x}]}}", "sites.shop.keys[0].kind: expected one of browser, server, got 'x'"),
        (
            "sites: {web: {}}\ndestinations: {wh: {}}\nconnections: {c: {site: wbe, destination: wh}}",
            "no site is named 'wbe'; did you mean `web`?",
        ),
        ("sites: {shop: {batch_period: 5x}}", "sites.shop.batch_period: expected a duration like 500ms"),
        ("sites: {shop: {keys: [{id: 5}]}}", "sites.shop.keys[0].id: expected a text, got a whole number"),
        ("sites: {Shop!: {}}", "sites.Shop!: a name is 1 to 63 of a-z"),
        ("sites: 5", "sites: expected a mapping of names to sites, got a whole number"),
        ("sities: {}", "sities: unknown key; did you mean `sites`? known: sites, destinations, functions, connections"),
        ("- 1", "expected a mapping with sites, destinations and connections, got a list"),
        ("a: [", "line 1, column 5"),
        ("connections: {c: {site: a, destination: b}}", "connections.c.site: no site is named 'a'; known: none"),
        (
            "sites: {a: {keys: [{id: x}]}, b: {keys: [{id: x}]}}",
            "sites.b.keys[0].id: 'x' belongs to site 'a' already; give every key its own id",
        ),
        ("destinations: {d: {}}", "destinations.d.type: expected the name of a destination type"),
        ("destinations: {d: {type: '${NOPE}'}}", "destinations.d.type: environment variable NOPE is not set"),
        ("sites: {a: {keys: [{id: 'x:y'}]}}", "sites.a.keys[0].id: a key id is printable and has no colon"),
    ],
)
def test_every_error_names_its_place_and_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(text, {})
    assert expected in str(caught.value)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_project("sites: {a: {x: 1}, b: {y: 2}}\nconnections: {c: {}}", {})
    assert len(caught.value.problems) == 4


def test_all_problems_of_one_connection_are_reported_at_once() -> None:
    text = "sites: {a: {}}\ndestinations: {d: {type: x}}\nconnections: {c: {site: b, destinaton: d, mod: batch, mode: x, batch: {max_rows: 0}}}"
    with pytest.raises(ConfigError) as caught:
        load_project(text, {})
    found = [str(problem).split("; known keys")[0].split(" known keys")[0] for problem in caught.value.problems]
    assert found == [
        "connections.c: unknown key `destinaton`; did you mean `destination`?",
        "connections.c: unknown key `mod`; did you mean `mode`?",
        "connections.c.mode: expected one of batch, stream, got 'x'",
        "connections.c.batch.max_rows: expected a whole number, at least 1",
        "connections.c.site: no site is named 'b'; known: a",
    ]


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"connections\.c: the key `destination` is missing"):
        load_project("connections: {c: {site: d}}", {})


def test_two_dollars_are_one_and_nothing_else_is_touched() -> None:
    assert interpolate({"a": ["$$x ${X} $y"]}, {"X": "1"}) == {"a": ["$x 1 $y"]}


def test_resolving_hashes_the_secrets_of_keys() -> None:
    resolved = resolve({"sites": {"s": {"keys": [{"id": "k", "secret": "${S}"}]}}}, {"S": "hunter2"})
    stored = resolved["sites"]["s"]["keys"][0]["secret"]
    assert stored == hash_secret("hunter2") == hash_secret(stored)
    assert "hunter2" not in stored


def test_the_json_schema_describes_every_part_of_the_file() -> None:
    schema = msgspec.json.encode(json_schema(Project)).decode()
    for word in ("batch_period", "on_conflict", "write keys", "1h30m", "64MiB"):
        assert word in schema


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("1h30m", 5400), ("7d", 604800), ("0s", 0), (1.5, 1.5), ("2 m", 120)]
)
def test_durations_are_read(text: object, seconds: float) -> None:
    assert Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "m5", "5 parsecs", -1, True, None, "1h x", float("nan"), float("inf")])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        Duration.parse(text)


@given(st.integers(0, 10**6), st.sampled_from([("KiB", 1024), ("MB", 10**6), ("", 1), (" GiB", 2**30)]))
def test_sizes_are_read(number: int, unit: tuple[str, int]) -> None:
    assert ByteSize.parse(f"{number}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize("text", ["", "x", "5 floppies", -1, True, None, [1]])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        ByteSize.parse(text)


def test_settings_come_from_the_environment_and_errors_name_the_variable() -> None:
    settings = read_settings(ServiceSettings, environment={"PENSTOCK_ADMIN_PORT": "9000", "PENSTOCK_DRAIN_PERIOD": "1m"})
    assert (settings.admin_port, settings.drain_period) == (9000, Duration(60))
    assert read_settings(ServiceSettings, environment={"PENSTOCK_DRAIN_PERIOD": "20"}).drain_period == Duration(20)
    for name, least in (("PENSTOCK_EVENTS_MAX_AGE", "2m"), ("PENSTOCK_DEAD_MAX_AGE", "2h")):
        assert read_settings(ServiceSettings, environment={name: least})
        with pytest.raises(ConfigError, match=f"{name}: expected at least"):
            read_settings(ServiceSettings, environment={name: "60s"})
    with pytest.raises(ConfigError, match="PENSTOCK_ADMIN_PORT: expected a whole number"):
        read_settings(ServiceSettings, environment={"PENSTOCK_ADMIN_PORT": "many"})


def test_an_address_of_a_lookup_that_is_none_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"lookups\.a\.file: it is no address"):
        load_project("lookups: {a: {file: 'http://[x/a.csv', key: k}}")
