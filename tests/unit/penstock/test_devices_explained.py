"""What the command says of device destinations: explain, check, plan, doubts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.control.explain.explain import explain
from penstock.control.project.check import check_destinations
from penstock.control.project.doubts import doubts
from penstock.control.project.plan import inline_secrets, mask
from penstock.control.project.projects import check_document
from shared.errors import ConfigError
from shared.project.read import decode_project

PROJECT: dict[str, Any] = {
    "sites": {"shop": {"keys": [{"id": "web"}]}},
    "destinations": {"tag": {"type": "tag", "script": "1"}},
    "connections": {
        "shop-tag": {
            "site": "shop",
            "destination": "tag",
            "consent": ["ads"],
            "where": [{"field": "properties.total", "gt": 5}],
        }
    },
}


async def way(event: dict[str, Any], **changes: Any) -> tuple[str, str, str]:
    project = {**PROJECT, "connections": {"shop-tag": {**PROJECT["connections"]["shop-tag"], **changes}}}
    body = {"type": "track", "event": "Sold", "userId": "u", "properties": {"total": 9}, **event}
    (found,) = (await explain(json.dumps(body).encode(), decode_project(project), "shop")).connections
    return found.result, found.reason, found.detail


async def test_explain_says_what_the_page_decides() -> None:
    assert await way({}) == ("page", "", "runs in the browser")
    assert (await way({"properties": {"total": 1}}))[:2] == ("dropped", "filtered")
    refused = {"context": {"consent": {"categoryPreferences": {"ads": False}}}}
    assert (await way(refused))[:2] == ("dropped", "consent")
    assert (await way({"integrations": {"All": False}}))[:2] == ("dropped", "integrations")
    assert (await way({"integrations": {"All": False, "tag": True}}))[0] == "page"
    assert (await way({"integrations": {"shop-tag": False}}))[:2] == ("dropped", "integrations")
    assert (await way({"integrations": {"shop-tag": False}}, integrations=False))[0] == "page"
    assert (await way({}, enabled=False))[0] == "disabled"


async def test_check_does_not_reach_for_a_device_and_says_where_it_runs() -> None:
    (found,) = await check_destinations(PROJECT["destinations"], None, lambda *_, **__: None)
    assert [(step.ok, "runs in the browser" in step.message) for step in found.steps] == [(True, True)]


def test_a_file_with_a_device_is_checked_whole_and_its_options_are_no_secrets() -> None:
    assert check_document(PROJECT, {})["connections"]
    wrong = {**PROJECT, "destinations": {"tag": {"type": "tga", "script": "1"}}}
    with pytest.raises(ConfigError, match="did you mean `tag`"):
        check_document(wrong, {})
    public = {"destinations": {"tag": {"type": "tag", "script": "const token = 'x'"}}}
    assert mask(public) == public
    assert inline_secrets(public) == []


def test_conditions_on_what_only_the_server_knows_are_doubtful() -> None:
    connection = {**PROJECT["connections"]["shop-tag"], "where": {"any": [{"field": "context.ip", "exists": True}]}}
    project = decode_project({**PROJECT, "connections": {"shop-tag": connection}})
    assert ["the server makes 'context.ip'" in str(each) for each in doubts(project)] == [True]


def test_a_second_account_of_a_device_of_which_a_page_has_one_is_doubtful() -> None:
    destinations = {
        "one": {"type": "hotjar", "site_id": 1},
        "same": {"type": "hotjar", "site_id": 1},
        "two": {"type": "hotjar", "site_id": 2},
        "ga": {"type": "ga4_tag", "measurement_id": "G-A"},
        "gb": {"type": "ga4_tag", "measurement_id": "G-B"},
    }
    connections = {name: {"site": "shop", "destination": name} for name in destinations}
    document = {"sites": {"shop": {}, "blog": {}}, "destinations": destinations, "connections": connections}
    (found,) = doubts(decode_project(document))
    assert str(found).startswith("connections.two: a page has one hotjar, and connection 'one' of the same site has site_id 1")
    for change in ({"enabled": False}, {"site": "blog"}):
        changed = {**connections, "two": {**connections["two"], **change}}
        assert doubts(decode_project({**document, "connections": changed})) == []


@pytest.mark.parametrize(
    ("options", "is_fine"),
    [
        ({"script": "tell({{ event.event }}, 'a', \"b\")"}, True),
        ({"script": 'tell("sold: {{ event.event }}")'}, False),
        ({"script": "tell('\"', {{ event.event }}, '\"') // don't \"{{ event.event }}\""}, True),
        ({"html": '<script>tell("{{ event.event }}")</script>'}, False),
        ({"html": "<p onclick='tell(\"{{ event.event }}\")'></p>"}, False),
        ({"html": '<img src="/p?e={{ event.event }}"><script>tell({{ event.event }})</script>'}, True),
    ],
)
def test_a_tag_takes_no_value_of_an_event_within_double_quotes_of_a_script(options: dict[str, str], is_fine: bool) -> None:
    document = {**PROJECT, "destinations": {"tag": {"type": "tag", **options}}}
    if is_fine:
        decode_project(document)
    else:
        with pytest.raises(ConfigError, match="write it without quotes around"):
            decode_project(document)
