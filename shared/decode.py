"""Decoding of what people write into Structs: unknown keys refused, every error names its path and what was expected.

Used for the project file, for the options of every plug-in and for settings, so that all of them report alike, and for the
JSON Schema that editors complete the project file with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

from shared.errors import ConfigError, Problem
from shared.units import ByteSize, Duration

T = TypeVar("T")

_NUMBER = re.compile(r"\d+(\.\d+)?")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")


def decode(value: object, type_: type[T], path: str = "") -> T:
    """Returns `value` (plain dicts, lists and scalars) as `type_`.

    Args:
        value: what a YAML or JSON parser gave.
        type_: a Struct type, usually with `forbid_unknown_fields=True`.
        path: where `value` stands in the file, for the error.

    Raises:
        ConfigError: with one problem that names the path and the expected type.
    """
    try:
        return msgspec.convert(value, type_, dec_hook=_dec_hook)
    except (msgspec.ValidationError, ValueError) as exc:
        raise ConfigError([_problem(str(exc), path, type_)]) from exc


def read_text(text: str, type_: Any, path: str) -> Any:
    """Returns the text of one environment variable as `type_`; lists are separated by commas.

    Raises:
        ConfigError: naming `path` and the expected type.
    """
    value: object = text
    if _is_list(type_):
        value = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.convert(value, type_, strict=False, dec_hook=_text_hook)
    except (msgspec.ValidationError, ValueError) as exc:
        raise ConfigError([_problem(str(exc), path, type_)]) from exc


def json_schema(type_: type) -> dict[str, Any]:
    """Returns the JSON Schema of a Struct type, with durations and sizes as strings or numbers."""
    return msgspec.json.schema(type_, schema_hook=_schema_hook)


def field_names(type_: Any) -> Iterable[str]:
    """Returns the names a Struct type knows, as people write them."""
    return (
        [field.encode_name for field in msgspec.structs.fields(type_)]
        if isinstance(type_, type) and issubclass(type_, msgspec.Struct)
        else ()
    )


def _is_list(type_: Any) -> bool:
    if get_origin(type_) is Annotated:
        return _is_list(get_args(type_)[0])
    return get_origin(type_) is list or any(_is_list(part) for part in get_args(type_) if isinstance(type_, UnionType))


def _problem(text: str, path: str, type_: Any) -> Problem:
    message, _, inner = text.partition(" - at `")
    inner = inner.removesuffix("`").removeprefix("$")
    unknown = _UNKNOWN.search(message)
    if unknown:
        message = f"unknown key `{unknown['field']}`"
        known = ", ".join(field_names(type_))
        if not inner and known:
            message += f"; known keys: {known}"
    # msgspec writes `[...]` where the key of a mapping stands
    where = (path + inner.replace("[...]", ".*")).lstrip(".")
    return Problem(where, message[:1].lower() + message[1:])


def _dec_hook(type_: type, value: object) -> object:
    if type_ is Duration:
        return Duration.parse(value)
    if type_ is ByteSize:
        return ByteSize.parse(value)
    raise NotImplementedError(f"no way to read a {type_.__name__}")


def _text_hook(type_: type, value: object) -> object:
    # a variable has no numbers: `20` is the text of one
    if type_ is Duration and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return Duration.parse(float(value))
    return _dec_hook(type_, value)


def _schema_hook(type_: type) -> dict[str, Any]:
    if type_ is Duration:
        return {"type": ["string", "number"], "examples": ["30s", "5m", "1h30m", "7d"]}
    if type_ is ByteSize:
        return {"type": ["string", "integer"], "examples": ["512KiB", "64MiB"]}
    raise NotImplementedError(f"no JSON Schema for {type_.__name__}")
