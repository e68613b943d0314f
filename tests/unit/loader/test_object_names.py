"""Templates of prefixes, and what names become in a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.objects.names import DEFAULT_PREFIX, SEGMENT_BYTES, check_prefix, folder, segment, split_prefix


@pytest.mark.parametrize("prefix", [DEFAULT_PREFIX, "{table}", "{date}/{table}/", "raw/v1/{table}/day={date}", "t-{table}"])
def test_a_prefix_with_the_table_is_taken(prefix: str) -> None:
    check_prefix(prefix)


@pytest.mark.parametrize(
    "prefix",
    [
        "", "{date}", "{table}/{nothing}", "{table", "/{table}", "../{table}", "{table}/../x", "{table}\0", "{table!r}", "{table:>300}",
        "{table.__class__}", "_penstock/{table}", "{table}/_x", ".hidden/{table}", "./{table}", "x" * 60 + "{table}", "{}",
    ],
)  # fmt: skip
def test_a_prefix_that_leads_elsewhere_or_nowhere_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        check_prefix(prefix)


@given(st.text(min_size=1, max_size=400))
def test_any_name_is_one_segment_that_readers_see(text: str) -> None:
    made = segment(text)
    assert 0 < len(made.encode()) <= SEGMENT_BYTES
    assert "/" not in made
    assert "\0" not in made
    assert not made.startswith((".", "_"))
    assert folder(DEFAULT_PREFIX, text).startswith(made + "/dt=")


@pytest.mark.parametrize(
    ("prefix", "root", "below"),
    [
        ("{table}/dt={date}/", "", "{table}/dt={date}/"),
        ("raw/shop/{table}/", "raw/shop/", "{table}/"),
        ("raw/shop-{table}", "raw/", "shop-{table}"),
        ("raw/{date}/{table}/", "raw/", "{date}/{table}/"),
    ],
)
def test_the_plain_head_of_a_prefix_is_the_root_of_all(prefix: str, root: str, below: str) -> None:
    check_prefix(prefix)
    assert split_prefix(prefix) == (root, below)
