"""Types, bounds and defaults of options in words, for the generated reference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

from shared.reading.units import ByteSize, Duration


def description(info: inspect.Type) -> str:
    """Returns what a field is for, as its Struct says."""
    return str((info.extra_json_schema or {}).get("description", "")) if isinstance(info, inspect.Metadata) else ""


def type_text(info: inspect.Type) -> str:
    """Returns a type in words, with its bounds."""
    match info:
        case inspect.Metadata():
            return type_text(info.type)
        case inspect.StructType():
            return f"[{info.cls.__name__}](#{info.cls.__name__.lower()})"
        case inspect.CustomType():
            return {Duration: "duration", ByteSize: "size"}[info.cls]
        case inspect.LiteralType():
            return " or ".join(f"`{value}`" for value in info.values)
        case inspect.ListType():
            return f"list of {type_text(info.item_type)}"
        case inspect.DictType():
            return f"name to {type_text(info.value_type)}"
        case inspect.UnionType():
            return " or ".join(type_text(each) for each in info.types if not isinstance(each, inspect.NoneType))
        case inspect.IntType() | inspect.FloatType():
            return ("integer" if isinstance(info, inspect.IntType) else "number") + _bounds(info)
        case inspect.StrType():
            return "text"
        case inspect.BoolType():
            return "`true` or `false`"
        case inspect.AnyType():
            return "any"
    raise TypeError(f"no words for {info}")


def _bounds(info: Any) -> str:
    match info.ge, info.gt, info.le:
        case None, None, None:
            return ""
        case None, None, most:
            return f" up to {most:g}"
        case None, above, None:
            return f" above {above:g}"
        case None, above, most:
            return f" above {above:g}, up to {most:g}"
        case least, _, None:
            return f" from {least:g}"
        case least, _, most:
            return f" from {least:g} to {most}"
    raise TypeError(f"no words for the bounds of {info}")


def default_text(field: inspect.Field) -> str:
    """Returns the default of a field, in words."""
    if field.required:
        return "**required**"
    value = field.default if field.default is not NODEFAULT else field.default_factory()
    match value:
        case None:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case Duration():
            return f"`{_duration_text(value)}`"
        case ByteSize():
            return f"`{_size_text(value)}`"
        case [] | {}:
            return "empty"
        case msgspec.Struct():
            return "its defaults"
        case _:
            return f"`{value}`"


def _duration_text(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds * 1000:g}ms" if seconds else "0s"


def _size_text(size: int) -> str:
    for unit, length in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= length and size % length == 0:
            return f"{size // length}{unit}"
    return f"{size}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a table in Markdown."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
