"""paho's client by the options of a feed, and what a broker's refusals mean."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from shared.driving.network import tls_context
from shared.errors import NotConnected, PenstockError, SetupError, Transient

if TYPE_CHECKING:
    from connector_runner.feeds.kinds.mqtt import MqttOptions

CONNECT_SECONDS = 5.0
AT_ONCE = 1_000
"""Messages that a broker of MQTT 5 sends before it waits for acknowledgements, at most."""

_VERSION, _IDENTIFIER, _USER, _FORBIDDEN, _TAKEN = 132, 133, 134, 135, 142
REMEDIES = {
    _VERSION: "the broker does not speak this version of MQTT; set `version: 3.1.1`",
    _IDENTIFIER: "the broker takes no client of this name; set `client_id`",
    _USER: "the broker refuses the login; check user and password",
    _FORBIDDEN: "the broker refuses the login: not authorized; check user, password, the certificate, and the broker's rules",
    _TAKEN: "another client came with the same `client_id`; give the feed one of its own",
    138: "the broker has banned the client; ask its operator",
}


def make_client(what: str, name: str, options: MqttOptions) -> tuple[Client, dict[str, Any]]:
    """Returns a client, and arguments of its `connect`.

    Raises:
        SetupError: a certificate cannot be read.
    """
    five = options.version == 5
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=options.client_id or f"penstock-{name}",
        clean_session=None if five else False,
        protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
        manual_ack=True,
        reconnect_on_failure=False,
    )
    client.connect_timeout = CONNECT_SECONDS
    if options.user is not None:
        client.username_pw_set(options.user, options.password)
    if options.tls:
        client.tls_set_context(_tls(what, options))
    more: dict[str, Any] = {}
    if five:
        wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted.SessionExpiryInterval = min(int(options.session_expiry), 2**32 - 2)
        wanted.ReceiveMaximum = AT_ONCE
        more = {"clean_start": False, "properties": wanted}
    return client, more


def refusal(reason: Any, what: str) -> PenstockError:
    """Returns our error for a broker's reason code."""
    words = REMEDIES.get(reason.value)
    if words is not None:
        return SetupError(f"{what}: {words}")
    return Transient(f"{what}: the broker refuses: {str(reason).lower()}")


class _Socket(ssl.SSLSocket):
    """Closes itself if the handshake fails; paho does not."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _tls(what: str, options: MqttOptions) -> ssl.SSLContext:
    context = tls_context(what, options.ssl_root_certificate, proven=True, named=True)
    if options.ssl_certificate is not None:
        try:
            context.load_cert_chain(options.ssl_certificate, options.ssl_key)
        except OSError as error:
            raise SetupError(f"{what}: ssl_certificate and ssl_key cannot be read: {error}") from error
    context.sslsocket_class = _Socket
    return context


def translate(error: OSError, what: str) -> PenstockError:
    """Returns our error for one of the socket."""
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return SetupError(f"{what}: the host name is unknown; check `server`: {error.strerror}")
    if isinstance(error, ssl.SSLError):
        return SetupError(f"{what}: TLS fails: {error.reason or error}; check the certificates, and that the port is one for TLS")
    if isinstance(error, ConnectionRefusedError):
        return NotConnected(f"{what}: the connection is refused; check `server`, and that the broker runs")
    return NotConnected(f"{what}: {error or type(error).__name__}; check `server`")
