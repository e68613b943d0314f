"""What a view shows of an event is what the full event holds there, whatever the client wrote."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.rules.view import compile_view
from router.rules.where import compile_where
from shared.events.event import JSON, RequestFacts, facts_of, materialise
from shared.events.frame import Head, RequestContext

HEAD = Head("m1", "track")
FACTS = {
    kind: facts_of(
        RequestContext(
            received_at=1_700_000_000_000_000,
            protocol="segment",
            key="k",
            kind=kind,
            ip="10.0.0.1",
            user_agent="agent",
            geo={"country": "NO"},
            defaults=b'{"context":{"page":{"url":"default"},"ip":null,"locale":"en","geo":"mine"}}',
        )
    )
    for kind in ("browser", "server")
}
KEYS = st.sampled_from(
    ["properties", "context", "page", "geo", "ip", "locale", "total", "url", "traits", "0", "a.b", "\u00e9", 'a"b\\', "\0", ""]
)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)


def text_of(value: Any) -> str:
    """Returns JSON of a value in which an object is a list of pairs, so that keys may repeat; some are written in escapes."""
    if isinstance(value, tuple):
        pairs = [
            f"{escaped(key) if position % 3 == 2 else json.dumps(key)}: {text_of(inner)}"
            for position, (key, inner) in enumerate(value)
        ]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(text_of(inner) for inner in value) + "]"
    return json.dumps(value)


def escaped(key: str) -> str:
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in key) + '"'


OBJECTS = st.recursive(
    st.lists(st.tuples(KEYS, SCALARS), max_size=4).map(tuple),
    lambda inner: st.lists(st.tuples(KEYS, SCALARS | inner | st.lists(SCALARS | inner, max_size=2)), max_size=5).map(tuple),
    max_leaves=12,
)
PATHS = st.lists(st.lists(KEYS, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)


def dig(event: JSON, path: tuple[str, ...]) -> Any:
    value: Any = event
    for key in path:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def same(path: tuple[str, ...], body: bytes, facts: RequestFacts, *beside: tuple[str, ...]) -> None:
    view = compile_view([path, *beside])
    if view is not None:
        assert repr(dig(view.read(body, HEAD, facts), path)) == repr(dig(materialise(body, HEAD, facts), path))


@given(OBJECTS, PATHS, st.sampled_from(["browser", "server"]))
@example(event=(("context", ()), ("context", "text")), paths=[("context", "page", "url")], kind="browser")
@example(event=(("context", (("page", None),)),), paths=[("context", "page", "url"), ("context", "geo")], kind="server")
@example(
    event=(("properties", [("total")]), ("properties", (("total", 1), ("total", "2")))),
    paths=[("properties", "total")],
    kind="browser",
)
@example(event=(("properties", (("total", 1),)),), paths=[("properties",), ("properties", "total")], kind="browser")
def test_every_path_leads_to_what_it_leads_to_in_the_full_event(event: Any, paths: list[tuple[str, ...]], kind: str) -> None:
    body = text_of(event).encode("utf-8", "surrogatepass")
    for path in paths:
        same(path, body, FACTS[kind], *paths)


def test_conditions_on_what_the_server_makes_need_the_full_event() -> None:
    for key in sorted(materialise(b"{}", HEAD, FACTS["browser"])):
        assert compile_view([(key,)]) is None, key
    for key in ("sentAt", "originalTimestamp", "integrations", "writeKey", "_metadata"):
        assert compile_view([("properties", "total"), (key, "x")]) is None


@pytest.mark.parametrize("body", [b"[]", b"5", b'"text"', b"{", b"", b'{"properties":{"total":"\xff"}}'])
def test_a_body_that_is_no_object_is_refused_as_by_the_full_event(body: bytes) -> None:
    view = compile_view([("properties", "total")])
    assert view is not None
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        materialise(body, HEAD, FACTS["browser"])
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        view.read(body, HEAD, FACTS["browser"])


@pytest.mark.parametrize("key", ["\ud800", "gr\u00f6\u00dfe"])
def test_a_key_that_is_not_ascii_is_looked_for_in_the_full_event(key: str) -> None:
    predicate = compile_where({"field": ["properties", key], "exists": True})
    assert predicate is not None
    assert predicate.view is None
    assert not predicate.on_event(HEAD, materialise(b'{"properties":{"a":1}}', HEAD, FACTS["browser"]))
