"""What a person reads when ClickHouse, or something else, answers."""

from __future__ import annotations

import json

import pytest

from loader.warehouses.clickhouse.errors import translate
from shared.errors import NotConnected


def test_another_server_at_that_address_is_told_with_the_option_to_check() -> None:
    with pytest.raises(json.JSONDecodeError) as read:
        json.loads("<html>")
    told = translate(read.value, "opening")
    assert isinstance(told, NotConnected)
    assert "`url`" in str(told)
