"""Protobuf as JSON, by Google's library and its own rules for JSON. https://protobuf.dev/programming-guides/json/"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)

_KNOWN = (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
"""Files that every program has, and registries do not."""


def protobuf_decoder(schema: str, needed: Sequence[tuple[str, str]]) -> Callable[[bytes], bytes]:
    """Returns what makes JSON of a value; names of fields stay as in the schema.

    Args:
        schema: a file's descriptor in base64, as the registry gives it for `format=serialized`.
        needed: names and descriptors of the files that it imports, those without imports first.
    """
    pool = descriptor_pool.DescriptorPool()
    for module in _KNOWN:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for name, text in needed:
        _add(pool, text, name)
    file = _add(pool, schema, None)
    classes: dict[tuple[int, ...], Any] = {}

    def decode(data: bytes) -> bytes:
        path, start = _path(data)
        message_class = classes.get(path)
        if message_class is None:
            found = file.message_types_by_name[[*file.message_types_by_name][path[0]]]
            for index in path[1:]:
                found = found.nested_types[index]
            message_class = classes[path] = message_factory.GetMessageClass(found)
        message = message_class.FromString(data[start:])
        text: str = json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None, descriptor_pool=pool)
        return text.encode()

    return decode


def _add(pool: Any, text: str, name: str | None) -> Any:
    file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text))
    if name is not None:
        file.name = name
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


def _path(data: bytes) -> tuple[tuple[int, ...], int]:
    """Returns the place of the message type in its file, and where the message begins; a lone zero stands for the first type."""
    count, at = _varint(data, 0)
    if count == 0:
        return (0,), at
    if not 0 < count <= 32:
        raise ValueError(f"the place of its type has {count} parts")
    path: list[int] = []
    for _ in range(count):
        index, at = _varint(data, at)
        path.append(index)
    return tuple(path), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns a number in zigzag form, and the place behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
        shift += 7
        if shift > 35:
            raise ValueError("the place of its type is no number")
