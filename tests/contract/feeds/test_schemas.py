"""Avro, Protobuf and JSON as Confluent's own serializers write them become JSON; what does not fit its schema is told."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from connector_runner.feeds.kinds.kafka.registry import Registry
from shared.errors import NotConnected, SetupError
from shared.telemetry.metrics import Telemetry
from tests.contract.feeds import of_kafka
from tests.contract.feeds.conftest import until
from tests.support.feeds import Journal, Lives, record
from tests.support.nats import NatsServer
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
        for _ in range(3):  # records of one kind come in crowds
            _, fault = await registry.decode(b"\0\0\0\0\x63" + value[5:])
            assert fault == "schema 99: the registry does not have it"
        assert server.asked["/schemas/ids/99"] == 1
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


@pytest.mark.parametrize(("status", "body"), [(404, "<html>not found</html>"), (200, "<html>welcome</html>")])
async def test_an_address_without_a_registry_is_no_fault_of_the_records(status: int, body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    server = TestServer(web.Application())
    server.app.router.add_route("*", "/{path:.*}", answer)
    async with server:
        registry = Registry(str(server.make_url("/")), None, None, "reading")
        with pytest.raises(SetupError, match="check schema_registry"):
            await registry.decode(b"\0\0\0\0\1x")
        await registry.close()


async def test_a_feed_whose_registry_fails_says_so_all_the_time(broker: NatsServer, telemetry: Telemetry, tmp_path: Path) -> None:
    failing = True

    async def answer(_: web.Request) -> web.Response:
        return (
            web.Response(status=500, text="out of memory")
            if failing
            else web.json_response({"schema": "{}", "schemaType": "JSON"})
        )

    server = TestServer(web.Application())
    server.app.router.add_route("*", "/{path:.*}", answer)
    with of_kafka.server(tmp_path) as cluster:
        async with server, of_kafka.open_source(cluster) as source:
            lives = Lives(broker.url, {**source.document, "schema_registry": str(server.make_url("/"))}, telemetry)
            await source.put([b"\0\0\0\0\1" + record(n) for n in range(20)])
            journal, said = Journal(lives), set()
            async with lives.life() as ending:
                await until(lambda: lives.problem != "")

                def has_failed_again() -> bool:
                    said.add(lives.problem.partition(";")[0])
                    return telemetry.value("feeds_errors_total", feed=lives.name) >= 3

                await until(has_failed_again)
                assert len(said) == 1
                assert "answers 500: out of memory" in said.pop()
                failing = False
                await journal.until(20)
                await until(lambda: lives.problem == "")
                ending.set()
            assert sorted(journal.values()) == list(range(20))
