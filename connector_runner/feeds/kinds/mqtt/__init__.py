"""Feed from MQTT, by paho-mqtt: topics through a session that the broker keeps while no reader is there.

A message of QoS 1 is acknowledged (PUBACK) once its event is durable. MQTT has no positions: a message has a packet id, which the
broker uses again and again. So the feed numbers messages itself, and notes the packets of a frame with their numbers in the bucket
`state`, under `feed.<name>.session`, before the frame is published. A packet that comes again (DUP) gets the number that it had:
`session.py` says how, and where that ends.

Known traps: a broker may give few messages before it wants acknowledgements (Mosquitto 20), so frames are small; it grants less than
it was asked for; another client with the same id throws the feed out.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, field

from connector_runner.feeds.contract import Environment, Feed
from shared.errors import SetupError
from shared.reading.units import Duration

PORTS = {"mqtt": 1883, "mqtts": 8883}


class MqttOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the feed."""

    server: Annotated[str, Meta(description="address: mqtt://host:1883, or mqtts://host:8883 for TLS")]
    topics: Annotated[
        list[str],
        Meta(min_length=1, description="topic filters with + and #; $share/GROUP/FILTER shares with other readers, in MQTT 5"),
    ]
    version: Annotated[Literal[5, "3.1.1"], Meta(description="of the protocol")] = 5
    client_id: Annotated[
        str | None, Meta(description="under which the broker keeps the session; default: penstock- and the name of the feed")
    ] = None
    session_expiry: Annotated[
        Duration,
        Meta(description="how long the broker keeps messages while no reader is there; MQTT 5, within the broker's own limit"),
    ] = field(default_factory=lambda: Duration(7 * 86_400))
    user: Annotated[str | None, Meta(description="user name")] = None
    password: Annotated[
        str | None, Meta(description="password; write ${NAME} and set the environment variable", extra={"secret": True})
    ] = None
    ssl_root_certificate: Annotated[str | None, Meta(description="file with the certificate authority that is trusted")] = None
    ssl_certificate: Annotated[str | None, Meta(description="file with the feed's own certificate")] = None
    ssl_key: Annotated[str | None, Meta(description="file with its key")] = None

    def __post_init__(self) -> None:
        self.address()
        if not self.tls and (self.ssl_root_certificate or self.ssl_certificate):
            raise ValueError("server: expected an address with mqtts:// beside certificates")
        if (self.ssl_certificate is None) != (self.ssl_key is None):
            raise ValueError("ssl_certificate, ssl_key: expected both or neither")
        if self.password is not None and self.user is None:
            raise ValueError("user: expected one beside `password`")
        for topic in self.topics:
            levels = topic.split("/")
            if (
                "#" in "".join(levels[:-1])
                or any(len(each) > 1 and ("+" in each or "#" in each) for each in levels)
                or "\0" in topic
            ):
                raise ValueError(f"topics: {topic!r}: + stands for one whole level, and # for all that follow, at the end")
            if topic.startswith("$share/") and (len(levels) < 3 or not levels[1] or not levels[2]):
                raise ValueError(f"topics: {topic!r}: expected $share/GROUP/FILTER")

    @property
    def tls(self) -> bool:
        """Whether TLS is spoken."""
        return self.server.startswith("mqtts:")

    def address(self) -> tuple[str, int]:
        """Returns host and port.

        Raises:
            ValueError: there is none.
        """
        parts = urlsplit(self.server)
        if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/") or parts.username is not None:
            raise ValueError(f"server: expected an address such as mqtt://host:1883 or mqtts://host:8883, got {self.server!r}")
        return parts.hostname, parts.port or PORTS[parts.scheme]


OPTIONS = MqttOptions


async def open_feed(name: str, options: MqttOptions, environment: Environment) -> Feed:
    """Connects, and subscribes to topics that the session does not have."""
    try:
        from connector_runner.feeds.kinds.mqtt.feed import MqttFeed
    except ImportError as error:
        raise SetupError(
            f"reading feed \"{name}\": the driver is not installed ({error}); pip install 'penstock[mqtt]'"
        ) from error
    return await MqttFeed.open(name, options, environment)
