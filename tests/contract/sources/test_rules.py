"""The rules of a sync do the same to the rows of every source, in columns or as JSON."""

from __future__ import annotations

import hashlib
import hmac
import os
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pytest

from connector_runner.contract import JsonRows, Row, Rows
from connector_runner.json_rows import json_rows
from connector_runner.rules.sifting import Sieve
from connector_runner.syncs.packing import Packer
from connector_runner.syncs.selection import choose
from shared.errors import SetupError
from shared.project.functions import PrivacyRule
from shared.project.syncs import Sync, SyncStream
from shared.rules.privacy import NONCE_BYTES
from shared.syncs.frames import ARROW
from tests.support.sources.place import ROWS, Place, moment, order, read

SINCE = 5
"""The first order that meets the conditions."""


def sync(place: Place, namespace: str | None, **how: Any) -> Sync:
    name = f"{namespace}.{place.stream}" if namespace else place.stream
    return Sync(connector="subject", destination="wh", streams={name: SyncStream(**how)})


async def test_rows_are_filtered_chosen_and_hashed_before_they_leave(place: Place) -> None:
    source = await place.open()
    stream = (await place.streams(source))["orders"]
    wanted = sync(
        place,
        stream.namespace,
        mode="full_refresh",
        write="replace",
        primary_key=["id"],
        columns=["name"],
        where=[{"field": "updated_at", "gte": f"{moment(SINCE):%Y-%m-%dT%H:%M:%SZ}"}, {"field": "name", "starts_with": "Kunde"}],
        privacy=[PrivacyRule(field="name", do="hash", secret="s")],
    )
    (chosen,) = choose("s", wanted, [stream])
    found = await read(source, [chosen.selected])
    sieve = Sieve(chosen.rules, datetime.now(UTC), partial(os.urandom, NONCE_BYTES))
    packer = Packer(
        sync="s",
        destination="wh",
        run=1,
        streams=[chosen.stored],
        max_rows=10**6,
        max_bytes=10**9,
        sieves={chosen.stored.name: sieve},
    )
    for message in found.messages:
        if isinstance(message, Row | JsonRows | Rows):
            packer.add(message)
    rows: list[dict[str, Any]] = []
    for block in packer.end(last=True).blocks:
        lines = list(json_rows(block.columns())) if block.form == ARROW else block.lines()
        rows.extend(msgspec.json.decode(line) for line in lines)
    assert {int(row["id"]) for row in rows} == set(range(SINCE, ROWS + 1))
    assert sieve.filtered == SINCE - 1
    for row in rows:
        expected = hmac.new(b"s", order(int(row["id"]))["name"].encode(), hashlib.sha256).hexdigest()
        assert row["name"] == expected
        assert set(row) <= {"id", "name", *stream.cursor, *chosen.selected.cursor, *stream.added}


async def test_a_path_that_the_catalogue_does_not_have_is_said(place: Place) -> None:
    if "schema_told" in place.waivers:
        pytest.skip(f"waived: {place.waivers['schema_told']}")
    stream = (await place.streams(await place.open()))["orders"]
    for how in ({"columns": ["id", "nmae"]}, {"where": {"field": "nmae", "eq": 1}}):
        with pytest.raises(SetupError, match=r"no 'nmae'; did you mean `name`"):
            choose("s", sync(place, stream.namespace, **how), [stream])
