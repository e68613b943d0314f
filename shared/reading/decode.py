"""Decodes texts that people write into Structs: refuses unknown keys; every error names its path and the expected type.

The project file, the options of every plug-in and the settings are decoded here, so their errors look alike. The JSON Schema by
which editors complete the project file is made here too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

from shared.errors import ConfigError, Problem
from shared.reading.units import ByteSize, Duration

T = TypeVar("T")

_NUMBER = re.compile(r"\d+(\.\d+)?")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
_CHOICE = re.compile(r"Invalid enum value (?P<value>.*)", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_OF_FIELD = re.compile(r"(?P<field>\w+): (?P<rest>.*)", re.DOTALL)
"""What `__post_init__` says of one field."""
_BOUND = re.compile(r"Expected `(?P<kind>\w+)`(?: of length)? (?P<sign>[<>]=?) (?P<bound>[-\d.]+)")
_SIGNS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_KINDS = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`")
_WORDS = {
    "array": "a list", "object": "a mapping", "str": "a text", "int": "a whole number", "float": "a number",
    "bool": "true or false", "null": "nothing", "list": "a list", "dict": "a mapping", "NoneType": "nothing",
}  # fmt: skip
_STEP = re.compile(r"\.(?P<field>\w+)|\[[^\]]*\]")


def decode(value: object, type_: type[T], path: str = "") -> T:
    """Returns `value` (plain dicts, lists and scalars) as `type_`.

    Args:
        value: the result of a YAML or JSON parser.
        type_: a Struct type, usually with `forbid_unknown_fields=True`.
        path: where `value` stands in the file, for the error.

    Raises:
        ConfigError: with every problem found; each names its path and what was expected.
    """
    try:
        return msgspec.convert(value, type_, dec_hook=_dec_hook)
    except (msgspec.ValidationError, ValueError) as exc:
        raise ConfigError(_all_problems(value, type_, path)) from exc


def _all_problems(value: object, type_: Any, path: str) -> list[Problem]:
    """Returns every fault of a value, part by part: msgspec stops at the first."""
    try:
        msgspec.convert(value, type_, dec_hook=_dec_hook)
        return []
    except (msgspec.ValidationError, ValueError) as exc:
        bare = _chosen(type_, value)
        whole = _problem(str(exc), path, bare or type_)
    parts: list[Problem] = []
    if isinstance(value, dict) and isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        parts = _problems_of_fields(value, bare, path)
    elif isinstance(value, list) and get_origin(bare) is list:
        for index, each in enumerate(value):
            parts.extend(_all_problems(each, get_args(bare)[0], f"{path}[{index}]"))
    elif isinstance(value, dict) and get_origin(bare) is dict:
        for name, each in value.items():
            parts.extend(_all_problems(each, get_args(bare)[1], f"{path}.{name}"))
    return parts or [whole]


def _problems_of_fields(value: dict[Any, Any], type_: type[msgspec.Struct], path: str) -> list[Problem]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    unknown = [str(name) for name in value if name not in fields and name != type_.__struct_config__.tag_field]
    problems = [_problem(f"Object contains unknown field `{name}`", path, type_) for name in unknown]
    misspelt = {close for name in unknown for close in difflib.get_close_matches(name, fields, n=1)}
    for name, field in fields.items():
        if name in value:
            problems.extend(_all_problems(value[name], field.type, f"{path}.{name}"))
        elif field.required and name not in misspelt:
            problems.append(_problem(f"Object missing required field `{name}`", path, type_))
    return problems


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


def kind_of(value: object) -> str:
    """Returns YAML's word for a value: a list, a mapping, a text, …"""
    return _WORDS.get(type(value).__name__, type(value).__name__)


def field_names(type_: Any) -> Iterable[str]:
    """Returns the names of a Struct type's fields, as people write them."""
    return (
        [field.encode_name for field in msgspec.structs.fields(type_)]
        if isinstance(type_, type) and issubclass(type_, msgspec.Struct)
        else ()
    )


def meant(name: str, known: Iterable[str]) -> str:
    """Returns ` did you mean ...?` if a known name is close to the written one, else an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" did you mean `{close[0]}`?" if close else ""


def _is_list(type_: Any) -> bool:
    if get_origin(type_) is Annotated:
        return _is_list(get_args(type_)[0])
    return get_origin(type_) is list or any(_is_list(part) for part in get_args(type_) if isinstance(type_, UnionType))


def _problem(text: str, path: str, type_: Any) -> Problem:
    message, _, inner = text.partition(" - at `")
    inner = inner.removesuffix("`").removeprefix("$")
    unknown = _UNKNOWN.search(message)
    if unknown:
        known = list(field_names(_type_at(type_, inner)))
        message = f"unknown key `{unknown['field']}`"
        if known:
            message += f";{meant(unknown['field'], known)} known keys: {', '.join(known)}"
    elif choice := _CHOICE.match(message):
        choices = [str(each) for each in get_args(_type_at(type_, inner))]
        if choices:
            message = (
                f"expected one of {', '.join(choices)}, got {choice['value']};{meant(choice['value'].strip(chr(39)), choices)}"
            )
            message = message.removesuffix(";")
    elif kinds := _KINDS.fullmatch(message):
        message = f"expected {_in_words(kinds['wanted'])}, got {_in_words(kinds['got'])}"
    elif missing := _MISSING.fullmatch(message):
        message = f"the key `{missing['field']}` is missing{_meaning(type_, inner, missing['field'])}"
    elif bound := _BOUND.fullmatch(message):
        length = " characters" if bound["kind"] == "str" else ""
        message = f"expected {_WORDS.get(bound['kind'], bound['kind'])}, {_SIGNS[bound['sign']]} {bound['bound'].removesuffix('.0')}{length}"
    elif (of := _OF_FIELD.fullmatch(message)) and of["field"] in field_names(_type_at(type_, inner)):
        inner, message = f"{inner}.{of['field']}", of["rest"]
    # msgspec writes `[...]` for the key of a mapping
    where = (path + inner.replace("[...]", ".*")).lstrip(".")
    return Problem(where, message[:1].lower() + message[1:])


def _in_words(kinds: str) -> str:
    """Returns msgspec's `array | null` in words of YAML, without `null`: an author knows that a value may be left out."""
    names = [name for name in kinds.split(" | ") if name != "null"] or ["null"]
    return " or ".join(_WORDS.get(name, name) for name in names)


def _type_at(type_: Any, path: str) -> Any:
    """Returns the type of the value at a path in a value of `type_`; None if it can have several."""
    for step in _STEP.finditer(path):
        type_ = _bare(type_)
        if step["field"] is None:
            type_ = get_args(type_)[-1] if get_args(type_) else None
        else:
            fields = msgspec.structs.fields(type_) if isinstance(type_, type) and issubclass(type_, msgspec.Struct) else ()
            type_ = next((field.type for field in fields if field.encode_name == step["field"]), None)
    return _bare(type_)


def _chosen(type_: Any, value: object) -> Any:
    """Returns a type without its description, and of several Structs the one that the value's tag names; None if it can be several."""
    if get_origin(type_) is Annotated:
        return _chosen(get_args(type_)[0], value)
    if get_origin(type_) in (UnionType, Union) and isinstance(value, dict):
        structs = [part for part in get_args(type_) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
        for config, part in ((part.__struct_config__, part) for part in structs):
            if config.tag is not None and value.get(config.tag_field) == config.tag:
                return part
    return _bare(type_)


def _meaning(type_: Any, path: str, name: str) -> str:
    """Returns what the description of a field says, behind a colon; empty if it has none."""
    struct = _type_at(type_, path)
    for field in msgspec.structs.fields(struct) if isinstance(struct, type) and issubclass(struct, msgspec.Struct) else ():
        if field.encode_name == name and get_origin(field.type) is Annotated:
            found = [meta.description for meta in field.type.__metadata__ if isinstance(meta, msgspec.Meta) and meta.description]
            return f": {found[0]}" if found else ""
    return ""


def _bare(type_: Any) -> Any:
    """Returns a type without its description, and without None."""
    while True:
        if get_origin(type_) is Annotated:
            type_ = get_args(type_)[0]
        elif get_origin(type_) in (UnionType, Union):
            parts = [part for part in get_args(type_) if part is not NoneType]
            if len(parts) != 1:
                return None
            type_ = parts[0]
        else:
            return type_


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
