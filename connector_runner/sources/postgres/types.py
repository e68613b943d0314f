"""What a column's type becomes: an Arrow type, a JSON Schema, and the expression that reads it. Pure.

A type that no other system has stays the text that the server writes: ranges, composites, intervals, addresses, `bytea` (hex, as
`\\x6869`). Arrays become JSON. https://www.postgresql.org/docs/current/datatype.html
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import pyarrow as pa

WIDE = pa.decimal256(76, 38)
"""For a numeric of any size; a longer one stays text."""
_INTEGERS = frozenset(("int2", "int4", "int8", "oid"))
_FLOATS = frozenset(("float4", "float8"))
_RAW = _INTEGERS | _FLOATS | {"numeric", "bool", "json", "jsonb"}
"""Types of elements that are JSON as the server writes them, almost."""
_FORMATS = {"date": "date", "time": "time", "timetz": "time", "interval": "duration", "uuid": "uuid"}
_UNORDERED = frozenset(("json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle", "xid", "jsonb"))

Form = Literal["boolean", "integer", "float", "decimal", "date", "timestamp", "timestamptz", "text", "json", "array"]


class Column(NamedTuple):
    """A column of a table, as the catalogue has it; the type is the one below its domains.

    `type`: name in `pg_type`; `element`: that of an array's elements, else "". `modifier`: length, or precision and scale; -1: none.
    `declared`: as people write it. `generated`: the server computes it.
    """

    name: str
    type: str
    element: str
    modifier: int
    required: bool
    declared: str
    generated: bool = False

    @property
    def form(self) -> Form:
        """How its values are treated."""
        if self.element:
            return "array"
        match self.type:
            case "bool":
                return "boolean"
            case "numeric":
                return "decimal" if self.arrow is not None else "text"
            case "date" | "timestamp" | "timestamptz":
                return self.type
            case "json" | "jsonb":
                return "json"
        return "integer" if self.type in _INTEGERS else "float" if self.type in _FLOATS else "text"

    @property
    def arrow(self) -> pa.DataType | None:
        """The Arrow type of its values; None: text."""
        match self.type if not self.element else "array":
            case "bool":
                return pa.bool_()
            case "numeric":
                return _decimal(self.modifier)
            case "date":
                return pa.date32()
            case "timestamp":
                return pa.timestamp("us")
            case "timestamptz":
                return pa.timestamp("us", "UTC")
            case name if name in _INTEGERS:
                return pa.int64()
            case name if name in _FLOATS:
                return pa.float64()
        return None

    @property
    def raw_elements(self) -> bool:
        """Whether the elements of an array are JSON without quotes."""
        return self.element in _RAW

    @property
    def ordered(self) -> bool:
        """Whether it can be a cursor."""
        return not self.element and self.type not in _UNORDERED

    def expression(self, quoted: str) -> str:
        """Returns the expression that reads it; `quoted`: its name in SQL."""
        if not self.element:
            return quoted
        return f"to_json({quoted if self.raw_elements else f'{quoted}::text[]'})"

    def schema(self) -> dict[str, Any]:
        """Returns the JSON Schema of its values."""
        name, found = "string", dict[str, Any]()
        match self.form:
            case "boolean" | "integer":
                name = self.form
            case "float" | "decimal":
                name = "number"
            case "array":
                name = "array"
            case "json":
                return {"description": self.declared}
            case "timestamp" | "timestamptz":
                found["format"] = "date-time"
            case _ if self.type in _FORMATS:
                found["format"] = _FORMATS[self.type]
            case _ if self.type == "bytea":
                found["contentEncoding"] = "base16"
        return {"type": name if self.required else ["null", name], **found, "description": self.declared}


def _decimal(modifier: int) -> pa.DataType | None:
    if modifier < 0:
        return WIDE
    precision, scale = (modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF
    scale = scale - 2048 if scale >= 1024 else scale  # since version 15 it may be negative, or larger than the precision
    if not 0 <= scale <= precision or precision > WIDE.precision:
        return WIDE if precision <= WIDE.precision // 2 and abs(scale) <= WIDE.scale else None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
