"""`penstock connector`, as a person uses it: a manifest beside the project file, an HTTP API behind it, no stack."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Done, LocalStack
from tests.support.paged_api import TOKEN, manifest, order, paged_api
from tests.support.sources.place import CACHE


@pytest.fixture
def folder(tmp_path: Path) -> LocalStack:
    """A folder with a home whose connectors are installed already."""
    found = LocalStack(tmp_path)
    CACHE.mkdir(parents=True, exist_ok=True)
    found.home.prepare()
    (found.home.folder / "connectors").symlink_to(CACHE)
    return found


def write(folder: LocalStack, **connectors: dict[str, Any]) -> None:
    folder.project.write_text(json.dumps({"connectors": connectors}))


async def run(folder: LocalStack, *arguments: str) -> Done:
    return await asyncio.to_thread(folder.run, "connector", *arguments, environment={"API_TOKEN": TOKEN})


async def test_a_connector_is_listed_tried_read_and_read_on(folder: LocalStack) -> None:
    async with paged_api() as api:
        (folder.folder / "orders.json").write_text(json.dumps(manifest(api.url)))
        write(folder, shop={"type": "airbyte", "manifest": "orders.json", "config": {"token": "${API_TOKEN}"}})
        listed = await run(folder, "list")
        assert "orders.json" in listed.out
        assert "did you mean" not in listed.err
        assert (await run(folder, "spec", "shop", "--json")).json["required"] == ["token"]
        streams = (await run(folder, "discover", "shop", "--json")).json
        assert {(each["name"], tuple(each["cursor"])) for each in streams} == {("orders", ("updated_at",)), ("empty", ())}

        first = await run(folder, "read", "shop", "orders", "--state", "orders.state")
        assert [json.loads(line)["id"] for line in first.out.splitlines()] == list(range(1, 96))
        api.orders += [order(96)]
        second = await run(folder, "read", "shop", "orders", "--state", "orders.state")
        assert {json.loads(line)["id"] for line in second.out.splitlines()} - {95} == {96}

        kept = (folder.folder / "orders.state").read_bytes()
        api.refuses = True
        failed = await run(folder, "read", "shop", "orders", "--state", "orders.state")
        assert failed.code != 0
        assert "401" in failed.err
        assert TOKEN not in failed.err
        assert (folder.folder / "orders.state").read_bytes() == kept, "a read that failed changes no state"


async def test_a_wrong_entry_is_named_before_anything_is_installed(folder: LocalStack) -> None:
    write(
        folder,
        a={"type": "airbyte", "package": "airbyte-source-faker"},
        b={"type": "airbite"},
        c={"type": "airbyte", "manifest": "gone.yaml"},
    )
    listed = await run(folder, "list")
    assert "connectors.b.type: expected one of airbyte" in listed.err
    assert "did you mean `airbyte`?" in listed.err
    for arguments, words in (
        (("check", "a"), "connectors.a: write `version`"),
        (("check", "b"), "connectors.b.type: expected one of airbyte"),
        (("check", "c"), "gone.yaml cannot be read"),
        (("check", "d"), "no connector is named 'd'"),
        (("read", "a", "--limit", "1", "--state", "x"), "--limit"),
    ):
        done = await run(folder, *arguments)
        assert done.code == 2, done
        assert words in done.err
