"""What a person reads when ClickHouse, or something else, answers."""

from __future__ import annotations

import json

import pytest

from loader.warehouses.clickhouse.errors import threw, translate
from loader.warehouses.clickhouse.statements import FENCED
from shared.driving.clickhouse import ServerError
from shared.errors import NotConnected, PenstockError, SetupError, Transient


def test_another_server_at_that_address_is_told_with_the_option_to_check() -> None:
    with pytest.raises(json.JSONDecodeError) as read:
        json.loads("<html>")
    told = translate(read.value, "opening")
    assert isinstance(told, NotConnected)
    assert "`url`" in str(told)


_INFO = (
    "Failed to get object info: No response body.. HTTP response code: {}: while reading 'x.parquet' in bucket 'b'. (S3_ERROR)"
)


@pytest.mark.parametrize(
    ("words", "kind", "remedy"),
    [
        (f"Code: 499. DB::Exception: {_INFO.format(404)}", Transient, "sent again"),
        (f"Code: 499. DB::Exception: {_INFO.format('403. Please check your AWS credentials')}", SetupError, "`lend_keys`"),
        ("Code: 499. DB::Exception: e.code() = 111, Connection refused. (S3_ERROR)", Transient, "reaches the address"),
        ("Code: 491. DB::Exception: URL is not allowed in configuration file. (UNACCEPTABLE_URL)", SetupError, "remote_url_allow_hosts"),
        ("Code: 107. DB::Exception: File /s/x.parquet doesn't exist. (FILE_DOESNT_EXIST)", Transient, "check `staging`"),
        (
            "Code: 291. DB::Exception: File `/s/x` is not inside `/var/lib/clickhouse/user_files`. (DATABASE_ACCESS_DENIED)",
            SetupError,
            "user_files_path",
        ),
    ],
)  # fmt: skip
def test_a_server_that_cannot_read_what_is_staged_says_what_to_change(words: str, kind: type[PenstockError], remedy: str) -> None:
    told = translate(ServerError(words), 'loading table "t" of clickhouse destination "wh"', "t", data=True)
    assert type(told) is kind
    assert remedy in str(told)


_QUOTED = f"In scope SELECT id FROM input('id String') WHERE NOT throwIf((SELECT max(epoch)) != 7, '{FENCED}')"


@pytest.mark.parametrize(
    ("words", "is_fence"),
    [
        (f"Code: 395. DB::Exception: {FENCED}: while executing 'FUNCTION throwIf(…, '{FENCED}')'. (FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)", True),
        (f"Code: 395. DB::Exception: Received from ch2:9000. DB::Exception: {FENCED}: while executing 'FUNCTION throwIf'", True),
        (f"Code: 395. DB::Exception: the shop is closed: while executing 'FUNCTION throwIf(…)': {_QUOTED}", False),
        (f"Code: 241. DB::Exception: Memory limit exceeded: {_QUOTED}. (MEMORY_LIMIT_EXCEEDED)", False),
        (f"Code: 60. DB::Exception: Table shop.t does not exist. {_QUOTED}", False),
        ("status 502 without words", False),
    ],
)  # fmt: skip
def test_only_the_servers_own_refusal_is_a_fence(words: str, is_fence: bool) -> None:
    assert threw(ServerError(words), FENCED) == is_fence
    assert not threw(None, FENCED)
