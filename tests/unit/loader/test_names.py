"""Names of tables and columns."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.types.names import Namer, digest, fold
from tests.unit.loader.shaping import capabilities

ANY_TEXT = st.text(max_size=200)


@pytest.mark.parametrize(
    ("key", "folded"),
    [
        ("userId", "user_id"),
        ("orderID", "order_id"),
        ("HTTPServer", "http_server"),
        ("ga4SessionId", "ga4_session_id"),
        ("already_snake", "already_snake"),
        ("_leading", "_leading"),
        ("__two", "__two"),
        ("Order Completed", "order_completed"),
        ("a--b..c", "a_b_c"),
        ("ends!", "ends_"),
        ("$price", "_price"),
        ("größeCm", "größe_cm"),
        ("ИмяКлиента", "имя_клиента"),
        ("商品名", "商品名"),
        ("हिन्दी", "हिन्दी"),
        ("cafe\u0301", "café"),
        ("a\0b", "a_b"),
        ("x; DROP TABLE y --", "x_drop_table_y_"),
        ("A\U0001d434", "a\U0001d434"),
        ("🎉", ""),
        ("!!!", ""),
    ],
)
def test_a_key_is_folded_to_snake_case_and_keeps_letters_of_any_script(key: str, folded: str) -> None:
    assert fold(key) == folded


@given(ANY_TEXT)
def test_folding_twice_changes_nothing(key: str) -> None:
    once = fold(key)
    assert fold(once) == once


@given(ANY_TEXT)
def test_a_folded_name_has_only_letters_marks_digits_and_underscores(key: str) -> None:
    import unicodedata

    assert all(c == "_" or c.isalnum() or unicodedata.category(c)[0] == "M" for c in fold(key))


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["context", "page", "url"], "context_page_url"),
        ([""], "_unnamed"),
        (["a", ""], "a__unnamed"),
        (["1st"], "_1st"),
        (["a", "1st"], "a_1st"),
        (["!!!"], "column_" + digest("!!!")),
        (["a", "🎉"], "a_column_" + digest("🎉")),
    ],
)
def test_a_column_is_its_path_folded_and_joined(parts: list[str], name: str) -> None:
    namer = Namer(capabilities())
    assert namer.column([namer.part(part) for part in parts]) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [("Order Completed", "order_completed"), ("", "_unnamed"), ("2 Fast", "_2_fast"), ("💥", "table_" + digest("💥"))],
)
def test_a_table_is_named_by_the_same_rules(text: str, name: str) -> None:
    assert Namer(capabilities()).table(text) == name


@pytest.mark.parametrize("text", ["_penstock_loads", "_Penstock loads", "_penstockX"])
@pytest.mark.parametrize("original", [True, False])
def test_a_client_cannot_name_a_table_of_ours(text: str, original: bool) -> None:
    namer = Namer(capabilities(), original)
    assert not namer.table(text).lower().startswith("_penstock")
    assert not namer.column([namer.part(text)]).lower().startswith("_penstock")


@given(ANY_TEXT, st.integers(20, 70), st.sampled_from(["bytes", "characters"]), st.booleans())
def test_a_name_fits_the_limit_in_its_own_unit_and_is_never_empty(text: str, limit: int, unit: str, original: bool) -> None:
    namer = Namer(capabilities(name_limit=limit, name_unit=unit), original)
    for name in (namer.column([namer.part(text)]), namer.table(text), namer.suffixed(namer.part(text), ("a", text))):
        assert name
        assert "\0" not in name
        assert len(name.encode() if unit == "bytes" else name) <= limit


def test_cutting_by_bytes_splits_no_character() -> None:
    cut = Namer(capabilities(name_limit=20)).cut("ж" * 30)
    assert cut == "ж" * 5 + "_" + digest("ж" * 30)


def test_long_names_with_one_head_stay_apart_and_each_is_cut_alike_every_time() -> None:
    namer, again = Namer(capabilities()), Namer(capabilities())
    one, other = "property_" * 20 + "a", "property_" * 20 + "b"
    assert namer.column([one]) != namer.column([other])
    assert namer.column([one]) == again.column([one])
    assert namer.column([one]).startswith("property_property_")


def test_the_suffix_depends_on_the_full_source_path() -> None:
    namer = Namer(capabilities())
    one, other = namer.suffixed("total", ("properties", "total")), namer.suffixed("total", ("traits", "total"))
    assert one != other
    assert one == Namer(capabilities()).suffixed("total", ("properties", "total"))
    assert len(one) == len("total_") + 8
    assert namer.suffixed("a_b", ("a", "b")) != namer.suffixed("a_b", ("a_b",))


def test_original_names_are_kept_but_for_nul_characters() -> None:
    namer = Namer(capabilities(), original=True)
    assert namer.column([namer.part("userId")]) == "userId"
    assert namer.column([namer.part("1 st\0")]) == "1 st"
    assert namer.column([namer.part("\0")]) == "_unnamed"
    assert namer.table('Robert"); --') == 'Robert"); --'


@pytest.mark.parametrize(("case", "same"), [("lower", True), ("upper", True), ("ascii", True), ("keep", False)])
def test_names_are_one_where_the_warehouse_folds_them_to_one(case: str, same: bool) -> None:
    namer = Namer(capabilities(case=case))
    assert (namer.key("userId") == namer.key("USERID")) is same


def test_letters_beyond_ascii_are_folded_one_by_one_or_not_at_all() -> None:
    servers, ascii_only = Namer(capabilities(case="lower")), Namer(capabilities(case="ascii"))
    for one, other in (("É", "é"), ("İ", "i"), ("µ", "μ"), ("ΣΣ", "σς"), ("ＡẞK", "ａßk")):
        assert servers.key(one) == servers.key(other)
        assert ascii_only.key(one) != ascii_only.key(other)
    assert servers.key("ﬁ") != servers.key("fi")


def test_a_name_whose_file_would_be_too_long_is_cut_and_a_plain_one_is_not() -> None:
    namer = Namer(replace(capabilities(), name_limit=64, name_unit="characters", table_limit=50))
    assert namer.table("a" * 64) == "a" * 64
    assert len(namer.table("名" * 64)) == 50
    assert namer.table("名" * 50) == "名" * 50
    assert namer.table("名" * 64) != namer.table("名" * 63)
    assert len(namer.column(["名" * 64])) == 64


def test_the_caches_of_a_namer_stay_bounded() -> None:
    namer = Namer(capabilities())
    for number in range(60_000):
        namer.part(f"Key {number}")
        namer.table(f"Table {number}")
    assert len(namer._parts) <= 50_000
    assert len(namer._tables) <= 50_000


def test_a_system_column_of_the_warehouse_gets_a_name_of_its_own() -> None:
    namer = Namer(replace(capabilities(), system_columns=frozenset({"ctid"})))
    assert namer.column(["ctid"]).startswith("ctid_")
    assert namer.column(["ctid"]) == namer.column(["ctid"])
    assert namer.column(["ctid", "x"]) == "ctid_x"


def test_a_system_column_is_one_in_any_case_that_the_warehouse_takes_for_it() -> None:
    namer = Namer(replace(capabilities(), system_columns=frozenset({"ctid"}), case="lower"), original=True)
    assert namer.column(["CTID"]).startswith("CTID_")
