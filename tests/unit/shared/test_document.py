"""Project files as people write them: what YAML would quietly misunderstand is refused or kept as text."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError
from shared.reading.document import parse_document, parse_yaml, write_document


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as refused:
        parse_document(text, "penstock.yaml")
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# sites: {}\n", "is empty"),
        ("null", "is empty"),
        ("- sites", "got a list"),
        ("sites", "got a single value"),
        ("sites:\n\tweb: {}", "line 2, column 1"),
        ("sites:\n\tweb: {}", "indent with spaces"),
        ("sites:\n  web: {}\n api: {}", "look at the indentation of this line"),
        ("sites: {web: {}", "not closed"),
        ("sites: a: b", "a missing space or quote"),
        ("sites: [*]", "put a text that begins with * or & into quotes"),
        ("sites: {}\n---\nsites: {}", "line 2"),
        ("sites:\n  web: {keys: [{id: a}]}\n  web: {keys: [{id: b}]}", "line 3, column 3: the key `web` stands here twice"),
        ("{sites: {}, sites: {}}", "the key `sites` stands here twice"),
        ("sites: &s\n  web: *s", "an anchor holds itself"),
        ("sites: " + "[" * 200 + "]" * 200, "levels deep"),
        ("sites: " + "[" * 100_000, "nested too deeply"),
        (
            "a: &a [x, x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{f'*{chr(97 + n)}, ' * 9}]\n" for n in range(15)),
            "anchors",
        ),
        ("sites: !!python/object/apply:os.system [ls]", "line 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(text: str, said: str) -> None:
    message = refusal(text)
    assert message.startswith("penstock.yaml")
    assert said in message


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "NO",
        "yes",
        "on",
        "off",
        "Y",
        "2026-03-01",
        "2026-03-01T12:00:00Z",
        "01234",
        "12:30:00",
        "1_000",
        "0o17",
        "<5",
        "1e",
        ".",
    ],
)
def test_a_text_that_older_yaml_takes_for_something_else_stays_a_text(text: str) -> None:
    assert parse_yaml(f"value: {text}", "") == {"value": text}
    assert parse_yaml(f"{text}: value", "") == {text: "value"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-17", -17),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
    ],
)
def test_numbers_booleans_and_null_are_what_they_look_like(text: str, value: object) -> None:
    assert parse_yaml(f"value: {text}", "") == {"value": value}


def test_anchors_and_merges_are_written_out() -> None:
    text = "connections:\n  a: &a {site: web, destination: wh}\n  b: {<<: *a, destination: lake}\n  c: {<<: *a}"
    assert parse_document(text)["connections"]["b"] == {"site": "web", "destination": "lake"}


_DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abnoyes0129.:-e~<$ ", min_size=1), inner, max_size=3),
    max_leaves=10,
)


@given(document=st.dictionaries(st.text("abc", min_size=1), _DOCUMENTS, min_size=1))
def test_what_is_written_reads_back_as_it_was(document: dict[str, Any]) -> None:
    text = write_document(document)
    assert parse_document(text) == document
    assert yaml.safe_load(text) == document, "other programs read the same"
