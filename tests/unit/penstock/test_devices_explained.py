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
