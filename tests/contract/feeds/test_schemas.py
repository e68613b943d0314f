"""Avro, Protobuf and JSON as Confluent's own serializers write them become JSON; what does not fit its schema is told."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from connector_runner.feeds.kinds.kafka.registry import Registry
from shared.errors import NotConnected, SetupError
from tests.support.schema_registry import PASSWORD, USER, SchemaRegistry, schema_registry

AT = SerializationContext("orders", MessageField.VALUE)
ORDER = """{"type": "record", "name": "Order", "fields": [
  {"name": "id", "type": "long"},
  {"name": "note", "type": ["null", "string"], "default": null},
  {"name": "raw", "type": "bytes"},
  {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}"""


@contextlib.contextmanager
def client(registry: SchemaRegistry) -> Iterator[Any]:
    """Confluent's client."""
    made: Any = SchemaRegistryClient({"url": registry.url, "basic.auth.user.info": f"{USER}:{PASSWORD}"})
    try:
        yield made
    finally:
        made._rest_client.session.close()


def as_avro(server: SchemaRegistry, value: Any) -> Any:
    with client(server) as registry:
        return AvroSerializer(registry, ORDER)(value, AT)


async def decoded(registry: Registry, value: bytes) -> Any:
    read, fault = await registry.decode(value)
    assert fault == ""
    return msgspec.json.decode(read)


async def test_avro_becomes_json_with_all_digits_and_each_schema_is_asked_for_once() -> None:
    async with schema_registry() as server:
        order = {
            "id": 7, "note": None, "raw": b"\xff\x00", "total": Decimal("10.10"),
            "at": dt.datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=dt.UTC),
        }  # fmt: skip
        value = await asyncio.to_thread(as_avro, server, order)
        registry = Registry(server.url, USER, PASSWORD, "reading")
        found, fault = await registry.decode(value)
        assert fault == ""
        assert b'"total":10.10' in found
        assert msgspec.json.decode(found) == {
            "id": 7, "note": None, "raw": "/wA=", "total": 10.1, "at": "2026-03-01T12:00:00.123000Z"
        }  # fmt: skip
        assert await decoded(registry, value) == msgspec.json.decode(found)
        assert server.asked["/schemas/ids/1"] == 1
        _, fault = await registry.decode(value[:-2])
        assert "does not fit schema 1" in fault
        _, fault = await registry.decode(value + b"\0")
        assert "1 bytes are left over" in fault
        _, fault = await registry.decode(b"\0\0\0\0\x63" + value[5:])
        assert fault == "schema 99: the registry does not have it"
        await registry.close()


async def test_an_avro_schema_may_name_another_one() -> None:
    async with schema_registry() as server:

        def write() -> Any:
            with client(server) as registry:
                address = '{"type": "record", "name": "Address", "fields": [{"name": "city", "type": "string"}]}'
                registry.register_schema("address", Schema(address, "AVRO"))
                person = '{"type": "record", "name": "Person", "fields": [{"name": "home", "type": "Address"}]}'
                schema = Schema(person, "AVRO", [SchemaReference("Address", "address", 1)])
                return AvroSerializer(registry, schema)({"home": {"city": "Basel"}}, AT)

        registry = Registry(server.url, USER, PASSWORD, "reading")
        assert await decoded(registry, await asyncio.to_thread(write)) == {"home": {"city": "Basel"}}
        await registry.close()


async def test_protobuf_becomes_json_also_of_a_nested_type() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    order = file.message_type.add(name="Order")
    order.field.add(name="order_id", number=1, type=3, label=1)
    order.field.add(name="paid_at", number=2, type=11, label=1, type_name=".google.protobuf.Timestamp")
    order.nested_type.add(name="Line").field.add(name="sku", number=1, type=9, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))
    line = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order.Line"))
    async with schema_registry() as server:

        def write(message: Any) -> Any:
            with client(server) as registry:
                return ProtobufSerializer(type(message), registry, {"use.deprecated.format": False})(message, AT)

        paid = made(order_id=7)
        paid.paid_at.seconds = 1_700_000_000
        registry = Registry(server.url, USER, PASSWORD, "reading")
        value = await asyncio.to_thread(write, paid)
        assert await decoded(registry, value) == {"order_id": "7", "paid_at": "2023-11-14T22:13:20Z"}
        assert await decoded(registry, await asyncio.to_thread(write, line(sku="a"))) == {"sku": "a"}
        _, fault = await registry.decode(value[:-3])
        assert "does not fit schema" in fault
        await registry.close()


async def test_values_without_a_number_stay_and_a_registry_that_does_not_answer_is_no_fault_of_the_record() -> None:
    async with schema_registry() as server:
        registry = Registry(server.url, USER, "wrong", "reading")
        assert await registry.decode(b'{"n":1}') == (b'{"n":1}', "")
        assert await registry.decode(b"\0\0") == (b"\0\0", "")
        with pytest.raises(SetupError, match="refuses the login"):
            await registry.decode(b"\0\0\0\0\1x")
        await registry.close()
    away = Registry(server.url, None, None, "reading")
    with pytest.raises(NotConnected, match="does not answer"):
        await away.decode(b"\0\0\0\0\1x")
    await away.close()
