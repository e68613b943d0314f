"""Syncs that share a table: refused where one would throw the rows of the other away, and avoided by `penstock sync init`."""

from __future__ import annotations

from typing import Any

import pytest

from connector_runner.contract import Stream
from penstock.control.syncs.tables import shared_tables
from penstock.control.syncs.written import free_prefix, sync_text

WHOLE = {"public.users": {"mode": "full_refresh"}}


@pytest.mark.parametrize(
    ("second", "refused"),
    [
        ({"destination": "wh", "streams": WHOLE}, True),
        ({"destination": "wh", "streams": {"users": {"write": "append"}}}, True),
        ({"destination": "wh", "streams": {"people": {"table": "USERS", "write": "merge"}}}, True),
        ({"destination": "other", "streams": WHOLE}, False),
        ({"destination": "wh", "enabled": False, "streams": WHOLE}, False),
        ({"destination": "wh", "table_prefix": "b_", "streams": WHOLE}, False),
        ({"destination": "wh", "streams": {"users": {"enabled": False, "write": "replace"}}}, False),
        ({"destination": "wh", "streams": {"*": None}}, False),
        ({"destination": "wh"}, False),
    ],
)
def test_a_table_that_one_sync_replaces_belongs_to_no_other(second: dict[str, Any], refused: bool) -> None:
    found = list(shared_tables({"a": {"destination": "wh", "streams": WHOLE}, "b": second}))
    assert bool(found) == refused
    for each in found:
        assert each.path.startswith("syncs.b.streams.")
        assert "`table_prefix`" in each.message
        assert "sync a too" in each.message


def test_two_syncs_may_add_to_one_table() -> None:
    added = {"users": {"write": "append"}}
    assert not list(shared_tables({"a": {"destination": "wh", "streams": added}, "b": {"destination": "wh", "streams": added}}))


def test_a_sync_that_is_written_takes_no_table_of_another() -> None:
    streams = [Stream(name="users", namespace="public"), Stream(name="tags", namespace="public")]
    document: dict[str, Any] = {"syncs": {"a": {"destination": "wh", "streams": WHOLE}}}
    assert free_prefix(document, "shop-dw", connector="shop", destination="dw", streams=streams) == ""
    prefix = free_prefix(document, "shop-wh", connector="shop", destination="wh", streams=streams)
    assert prefix == "shop_"
    document["syncs"]["b"] = {"destination": "wh", "table_prefix": "shop_", "streams": WHOLE}
    assert free_prefix(document, "again", connector="shop", destination="wh", streams=streams) == "again_"
    text = sync_text("again", connector="shop", destination="wh", schedule="", streams=streams, prefix="again_")
    assert "    table_prefix: again_\n" in text
