"""Functions and privacy rules in a project file: what is taken, and what is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import ConfigError
from shared.project.model import Project
from shared.project.read import decode_project
from shared.project.variables import interpolate, required_variables
from shared.reading.units import Duration

NAMES: dict[str, Any] = {"sites": {"shop": {}}, "destinations": {"wh": {"type": "duckdb"}}}


def project(declared: dict[str, Any] | None = None, /, **connection: Any) -> Project:
    document = {**NAMES, "functions": declared or {}, "connections": {"c": {"site": "shop", "destination": "wh", **connection}}}
    return decode_project(interpolate(document, {}))


def refused(declared: dict[str, Any] | None = None, /, **connection: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        project(declared, **connection)
    return [str(problem) for problem in caught.value.problems]


def test_a_connection_names_its_functions_in_their_order() -> None:
    functions = {"one": {"code": "export default e => e"}, "two": {"file": "functions/two.ts", "description": "does it"}}
    found = project(
        functions, functions=["two", "one"], functions_env={"A": "x", "B": 5}, on_error="drop", function_timeout="50ms"
    )
    connection = found.connections["c"]
    assert (connection.functions, connection.functions_env) == (["two", "one"], {"A": "x", "B": 5})
    assert (connection.on_error, connection.function_timeout, connection.through_functions) == ("drop", Duration(0.05), True)
    assert found.functions["two"].file == "functions/two.ts"


def test_without_functions_and_rules_nothing_goes_through_them() -> None:
    connection = project().connections["c"]
    assert (connection.through_functions, connection.on_error, connection.function_timeout) == (False, "pass", Duration(1))
    assert project(privacy=[{"field": "context.ip", "do": "drop"}]).connections["c"].through_functions


def test_rules_are_in_order_and_know_their_paths() -> None:
    rules = (
        project(
            privacy=[
                {"field": "traits.**.email", "do": "hash", "secret": "s"},
                {"field": ["properties", "a.b", "*"], "do": "encrypt", "key": "k"},
                {"field": "properties.a", "do": "rename", "to": "b"},
                {"field": "context.ip", "do": "truncate"},
            ]
        )
        .connections["c"]
        .privacy
    )
    assert [rule.do for rule in rules] == ["hash", "encrypt", "rename", "truncate"]
    assert [rule.path for rule in rules[:2]] == [("traits", "**", "email"), ("properties", "a.b", "*")]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"do": "drop"}, "connections.c.privacy[0]: the key `field` is missing"),
        ({"field": "a", "do": "forget"}, "connections.c.privacy[0].do: expected one of hash, encrypt, drop, rename, truncate"),
        ({"field": "a", "do": "hash"}, "connections.c.privacy[0].secret: `do: hash` needs one"),
        (
            {"field": "a", "do": "hash", "secret": ""},
            "connections.c.privacy[0].secret: `do: hash` needs one; is its variable empty?",
        ),
        ({"field": "a", "do": "encrypt", "secret": "x", "key": "k"}, "privacy[0].secret: means nothing with `do: encrypt`"),
        ({"field": "a", "do": "drop", "to": "b"}, "connections.c.privacy[0].to: means nothing with `do: drop`; take it out"),
        ({"field": "a", "do": "rename"}, "connections.c.privacy[0].to: `do: rename` needs one"),
        ({"field": "a", "do": "rename", "to": "b.c"}, "connections.c.privacy[0].to: expected one key"),
        ({"field": "a.*", "do": "rename", "to": "b"}, "privacy[0].field: `rename` needs the name of a key at the end"),
        ({"field": "a..b", "do": "drop"}, "connections.c.privacy[0].field: expected keys with dots between them"),
        ({"field": "a.b*", "do": "drop"}, "privacy[0].field: `*` stands for a whole key, so 'b*' finds nothing"),
        ({"field": "a.**", "do": "drop"}, "connections.c.privacy[0].field: a path ends with a key"),
        ({"field": "messageId", "do": "hash", "secret": "s"}, "privacy[0].field: an event is known by its messageId"),
        ({"field": "a", "do": "rename", "to": "type"}, "privacy[0].to: an event is known by its type, so no other field takes"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rule: dict[str, Any], expected: str) -> None:
    assert expected in "\n".join(refused(privacy=[rule]))


@pytest.mark.parametrize(
    ("functions", "connection", "expected"),
    [
        ({"f": {}}, {}, "functions.f: write its `file`, or its `code`"),
        ({"f": {"file": "f.py"}}, {}, "functions.f.file: expected a file that ends with .js, .mjs, .ts, got 'f.py'"),
        ({"f": {"code": " "}}, {}, "functions.f.code: the code is empty"),
        ({"f": {"code": "x" * 262_145}}, {}, "functions.f.code: the code has 262145 bytes, more than the 262144"),
        ({"F!": {"code": "1"}}, {}, "functions.F!: a name is 1 to 63 of a-z"),
        ({"f": {"fiel": "f.js"}}, {}, "functions.f: unknown key `fiel`; did you mean `file`?"),
        ({"clean": {"code": "1"}}, {"functions": ["clear"]}, "functions[0]: no function is named 'clear'; did you mean `clean`?"),
        ({}, {"on_error": "retry"}, "connections.c.on_error: expected one of pass, dead_letter, drop, got 'retry'"),
        ({}, {"function_timeout": "2m"}, "connections.c.function_timeout: expected 10ms to 60s, got 120s"),
    ],
)
def test_a_function_that_cannot_be_is_refused(functions: dict[str, Any], connection: dict[str, Any], expected: str) -> None:
    assert expected in "\n".join(refused(functions, **connection))


def test_dollars_in_code_are_javascript_and_elsewhere_variables() -> None:
    code = "export default e => ({...e, name: `${e.first} $${e.last}`})"
    document = {
        "functions": {"f": {"code": code, "description": "${D:-it}"}},
        "connections": {"c": {"functions_env": {"A": "${X}"}}},
    }
    assert required_variables(document) == {"X"}
    put_in = interpolate(document, {"X": "1"})
    assert put_in["functions"]["f"] == {"code": code, "description": "it"}
    assert put_in["connections"]["c"]["functions_env"] == {"A": "1"}
