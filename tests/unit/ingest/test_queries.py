"""A query is read as a whole or text by text, and both say the same."""

from __future__ import annotations

import random
from urllib.parse import unquote_plus

import pytest

from ingest.clients.queries import parse_query

PIECES = [
    *"%=&+aB0_?/: \n", "%41", "%3D", "%3d", "%26", "%00", "%01", "%C3%A9", "%C3", "%ff", "%25", "%2B", "%%", "%0A", "=\n", "==",
    "%ED%A0%80", "%F0%9F%98%80", "é", "\udc80", "a=b", "&c=%20d", "&e=+f",
]  # fmt: skip


def one_by_one(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        found[unquote_plus(name)] = unquote_plus(value)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_query_is_read_as_text_by_text(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(5000):
        query = "".join(chance.choices(PIECES, k=chance.randrange(12)))
        assert list(parse_query(query).items()) == list(one_by_one(query).items()), query
        usual = "a=" + query.replace("&", "&n=")
        assert list(parse_query(usual).items()) == list(one_by_one(usual).items()), usual


def test_names_and_values_are_decoded() -> None:
    assert parse_query("e=pv&url=https%3A%2F%2Fx.example%2F%3Fa%3Db%26c&page=two+words%21&empty=") == {
        "e": "pv",
        "url": "https://x.example/?a=b&c",
        "page": "two words!",
        "empty": "",
    }
