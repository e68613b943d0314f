"""Avro as JSON, by fastavro. https://avro.apache.org/docs/1.12.0/specification/"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import fastavro
import msgspec

_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


def avro_decoder(schema: str, needed: Sequence[str]) -> Callable[[bytes], bytes]:
    """Returns what makes JSON of a value.

    Bytes become base64, decimals numbers with all their digits, times RFC 3339, a union its plain value.

    Args:
        needed: schemas that this one names, those without needs first.
    """
    names: dict[str, Any] = {}
    for each in needed:
        fastavro.parse_schema(json.loads(each), named_schemas=names)
    parsed = fastavro.parse_schema(json.loads(schema), named_schemas=names)

    def decode(data: bytes) -> bytes:
        stream = io.BytesIO(data)
        value = fastavro.schemaless_reader(stream, parsed, None)
        if stream.tell() != len(data):
            raise ValueError(f"{len(data) - stream.tell()} bytes are left over")
        return _encode(value)

    return decode
