"""Array literals of the server, as JSON. Pure. https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO"""

from __future__ import annotations

import re

import msgspec

from connector_runner.sources.postgres.types import Column

_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_PART = re.compile(r'"((?:[^"\\]|\\.)*)"|([{},])|((?:[^{},"\\]|\\.)+)', re.DOTALL)
_OF_BOXES = re.compile(_PART.pattern.replace(",", ";"), re.DOTALL)
"""The only type whose elements stand apart by another sign."""
_SIGNS = {"{": "[", "}": "]", ",": ",", ";": ","}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_encode = msgspec.json.encode


def array_as_json(text: str, column: Column) -> str:
    """Returns an array as the JSON that `to_json` makes of it."""
    if not text.startswith(("{", "[")):  # `int2vector`, `oidvector`
        return "[" + ",".join(text.split()) + "]"
    parts: list[str] = []
    pattern = _OF_BOXES if column.element == "box" else _PART
    for match in pattern.finditer(text, text.index("{")):
        quoted, sign, plain = match.groups()
        if sign is not None:
            parts.append(_SIGNS[sign])
        elif quoted is not None:
            parts.append(value_as_json(_ESCAPED.sub(r"\1", quoted), column.element))
        else:
            word = _ESCAPED.sub(r"\1", plain)
            parts.append("null" if plain.upper() == "NULL" else value_as_json(word, column.element))
    return "".join(parts)


def value_as_json(text: str, type_: str) -> str:
    """Returns a value as JSON: numbers, booleans and JSON as they are, all else as a text."""
    match type_:
        case "bool":
            return "true" if text == "t" else "false"
        case "json" | "jsonb":
            return text
        case "int2" | "int4" | "int8" | "oid" | "float4" | "float8" | "numeric" if _NUMBER.fullmatch(text):
            return text
    return _encode(text).decode()
