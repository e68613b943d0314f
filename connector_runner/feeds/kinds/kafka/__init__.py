"""Feed from Kafka, by aiokafka: topics through a consumer group of their own.

Positions are the group's offsets, so all of Kafka's tools see them. A partition that goes to another reader goes with everything
committed that was read of it; what could not be committed comes again there, under the same positions. Records of open and aborted
transactions are not read. With a schema registry, values in its form (a zero byte and the schema's number) become JSON.

A position that the topic no longer keeps is followed by the oldest record that it has.

https://kafka.apache.org/documentation/#theconsumer
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from connector_runner.feeds.contract import Environment, Feed, start_time
from shared.driving.kafka import KafkaOptions
from shared.reading.units import Duration


class KafkaFeedOptions(KafkaOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the feed, beside those of the connection."""

    topics: Annotated[list[str], Meta(min_length=1, description="topics to read")]
    group: Annotated[str | None, Meta(description="consumer group; default: penstock- and the name of the feed")] = None
    start: Annotated[
        str,
        Meta(description="where a partition without a position is read from: earliest, latest, or a time with its zone"),
    ] = "earliest"
    session_timeout: Annotated[
        Duration,
        Meta(description="how long a runner that died keeps its partitions, within the brokers' own bounds (from 6s on)"),
    ] = field(default_factory=lambda: Duration(10))
    schema_registry: Annotated[
        str | None, Meta(description="address of a schema registry, such as https://registry.example.com; for Avro and Protobuf")
    ] = None
    schema_registry_user: Annotated[str | None, Meta(description="its user name, or API key")] = None
    schema_registry_password: Annotated[str | None, Meta(description="its password, or API secret", extra={"secret": True})] = (
        None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        start_time(self.start)
        if self.schema_registry is None and (self.schema_registry_user or self.schema_registry_password):
            raise ValueError("schema_registry: expected its address beside user and password")
        if self.schema_registry is not None and not self.schema_registry.startswith(("http://", "https://")):
            raise ValueError("schema_registry: expected an address such as https://registry.example.com")


OPTIONS = KafkaFeedOptions


async def open_feed(name: str, options: KafkaFeedOptions, environment: Environment) -> Feed:
    """Joins the group."""
    from connector_runner.feeds.kinds.kafka.feed import KafkaFeed  # needs the driver

    return await KafkaFeed.open(name, options, environment)
