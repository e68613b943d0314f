"""`hydrate` of a webhook in a project file: what is wrong is named, and which connections it leads through functions_runtime."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.project.plan import mask
from router.rules.compiled import compile_project
from shared.errors import ConfigError
from shared.project.model import Project
from shared.project.read import decode_project
from shared.project.snapshot import ConfigSnapshot, StoredProject, _functions_queues

URL = "https://api.example.com/orders/{data.id}"


def document(**options: Any) -> dict[str, Any]:
    return {
        "sites": {"shop": {}, "other": {}},
        "destinations": {"wh": {"type": "duckdb", "path": "wh.duckdb"}},
        "connections": {name: {"site": name, "destination": "wh"} for name in ("shop", "other")},
        "webhooks": {"hook": {"site": "shop", "type": "open", "hydrate": {"url": URL, **options}}},
    }


@pytest.mark.parametrize(
    ("options", "path", "words"),
    [
        ({"url": "https://api.example.com/orders"}, "url", "names nothing of the payload"),
        ({"url": "https://{host}/orders/1"}, "url", "its host must be written out"),
        ({"url": "https://api{x}.example.com/orders"}, "url", "its host must be written out"),
        ({"url": "{scheme}://api.example.com/1"}, "url", "expected an http or https address"),
        ({"url": "https://user:p@api.example.com/{id}"}, "url", "without a user"),
        ({"url": "https://api.example.com/{}"}, "url", "is no path of the payload"),
        ({"url": "https://api.example.com/${file:/run/x}/{id}"}, "url", "is no path of the payload"),
        ({"url": "https://api.example.com:99999/{id}"}, "url", "api.example.com:99999 is no host"),
        ({"url": "https://api..example.com/{id}"}, "url", "is no host"),
        ({"url": "https://[::1/{id}"}, "url", "is no address"),
        ({"url": "{links.self}"}, "hosts", "name the hosts"),
        ({"url": "{links.self}", "hosts": ["a.example", "https://api.example.com"]}, "hosts[1]", "expected a host"),
        ({"url": "{links.self}", "hosts": ["api.example.com:99999"]}, "hosts[0]", "expected a host"),
        ({"hosts": ["a"]}, "hosts", "means nothing"),
        ({"headers": {"Host": "x"}}, "headers", "no header that can be set"),
        ({"headers": {"a b": "x"}}, "headers", "no header that can be set"),
        ({"into": "messageId"}, "into", "no place for an object"),
        ({"into": "properties"}, "into", "holds the delivery"),
        ({"into": "context.webhook.x"}, "into", "holds the delivery"),
        ({"into": "a..b"}, "into", "expected keys"),
        ({"timeout": "31s"}, "timeout", "100ms to 30s"),
        ({"max_bytes": "5MiB"}, "max_bytes", "1KiB to 4MiB"),
        ({"delays": ["1s", "0s"]}, "delays[1]", "10ms to 30 days"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(options: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        decode_project(document(**options))
    assert [each.path for each in raised.value.problems] == [f"webhooks.hook.hydrate.{path}"]
    assert words in raised.value.problems[0].message


def test_connections_of_the_site_pass_functions_and_no_others() -> None:
    project = decode_project(document(url="{links.self}", hosts=["api.example.com"], into=["context", "a.b"]))
    assert [project.through_functions(each) for each in project.connections.values()] == [True, False]
    snapshot = ConfigSnapshot(1, project)
    rules = compile_project(snapshot)
    assert [rules[name].connections[name].through_functions for name in ("shop", "other")] == [True, False]
    assert [snapshot.takes_functions_way(name) for name in ("shop", "other")] == [True, False]


def test_frames_under_way_are_found_when_the_option_is_taken_out() -> None:
    """As with functions: what waits before functions_runtime must go on."""
    with_, without = document(), document()
    del without["webhooks"]["hook"]["hydrate"]
    incarnations = {"shop": "1-a", "other": "1-b"}
    queues = _functions_queues(StoredProject({}, {}), StoredProject({}, with_), incarnations)
    assert len(queues) == 1
    assert queues[0].startswith("shop")
    before = StoredProject({}, with_, functions_queues=queues)
    assert _functions_queues(before, StoredProject({}, without), incarnations) == queues
    assert _functions_queues(StoredProject({}, without), StoredProject({}, without), incarnations) == []
    assert not Project().hydrates("shop")


def test_a_plan_shows_no_secret_of_the_headers() -> None:
    shown = mask(document(headers={"Authorization": "Bearer s3cret", "X": "${TOKEN}"}))["webhooks"]["hook"]["hydrate"]
    assert "s3cret" not in str(shown)
    assert (shown["headers"]["X"], shown["url"]) == ("${TOKEN}", URL)
