"""Values of buckets that are damaged, or of a later release: the error names the key and the remedy, and no reader ends."""

from __future__ import annotations

import msgspec
import pytest

from shared.errors import UNREADABLE, SetupError
from shared.jetstream.kv import Entry, value_of
from shared.syncs.records import decode

DAMAGED = (b'{"a":"\xff"}', b"{", b"[" * 100_000, b'{"a":[]}')


class _Value(msgspec.Struct):
    a: str = ""


@pytest.mark.parametrize("value", DAMAGED)
def test_a_damaged_value_is_named_with_what_to_do(value: bytes) -> None:
    with pytest.raises(SetupError, match=r"the value feed\.x\.place of the bucket `state` cannot be read: .*or delete it"):
        value_of(Entry("feed.x.place", value, 1), _Value)
    with pytest.raises(UNREADABLE):
        msgspec.json.decode(value, type=_Value)
    assert decode(value, _Value) is None


def test_no_value_is_none_and_a_whole_one_is_read() -> None:
    assert value_of(None, _Value) is None
    assert value_of(Entry("k", None, 1), _Value) is None
    assert value_of(Entry("k", b'{"a":"x"}', 1), _Value) == _Value("x")
    assert value_of(Entry("k", msgspec.msgpack.encode({"a": "x"}), 1), _Value, packed=True) == _Value("x")
