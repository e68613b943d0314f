"""Clients of Kafka, for all that write to it or read from it: options of the connection, arguments of aiokafka, errors in our words.

Known traps of aiokafka: it says only that no broker could be reached, and logs why (`reason_of` asks again); a refused SCRAM login
ends in a `KeyError`; its table of error codes ends before INVALID_RECORD.

https://kafka.apache.org/protocol#protocol_error_codes
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.driving.network import tls_context
from shared.errors import SetupError
from shared.tasks import timeout

CLIENT = "penstock"
"""The name by which brokers know the client: in their logs, metrics and quotas."""
INVALID_RECORD = 87
REASON_SECONDS = 10.0

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class KafkaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a connection to brokers."""

    bootstrap_servers: Annotated[
        str, Meta(description="brokers to ask first, as host:port, with commas between them; they name the other brokers")
    ]
    ssl: Annotated[
        Literal["disable", "require", "verify-ca", "verify-full"],
        Meta(description="disable: plain; require: encrypted; verify-ca, verify-full: also proves the broker, and its name"),
    ] = "disable"
    ssl_root_certificate: Annotated[
        str | None, Meta(description="file with the certificate authority that verify-ca and verify-full trust")
    ] = None
    ssl_certificate: Annotated[
        str | None, Meta(description="file with the client's certificate, for brokers that ask for one")
    ] = None
    ssl_key: Annotated[str | None, Meta(description="file with the key of the client's certificate")] = None
    sasl: Annotated[Mechanism | None, Meta(description="how the user logs in; none: without a login")] = None
    user: Annotated[str | None, Meta(description="user name, for sasl")] = None
    password: Annotated[
        str | None, Meta(description="password; write ${NAME} and set the environment variable", extra={"secret": True})
    ] = None

    def __post_init__(self) -> None:
        for server in self.servers:
            host, _, port = server.rpartition(":")
            if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536) or "/" in host or "@" in host:
                raise ValueError(f"bootstrap_servers: expected host:port, such as kafka-1.example.com:9092, got {server!r}")
        if self.sasl is not None and not (self.user and self.password):
            raise ValueError("sasl: expected user and password beside it")
        if self.sasl is None and (self.user or self.password):
            raise ValueError("user, password: expected sasl beside them, such as SCRAM-SHA-512")
        if (self.ssl_certificate is None) != (self.ssl_key is None):
            raise ValueError("ssl_certificate, ssl_key: expected both or neither")
        if self.ssl == "disable" and (self.ssl_root_certificate or self.ssl_certificate):
            raise ValueError("ssl: expected verify-full, or another word than disable, where certificates are given")

    @property
    def servers(self) -> list[str]:
        """The brokers to ask first."""
        return [each.strip() for each in self.bootstrap_servers.split(",")]

    @property
    def protocol(self) -> str:
        """What Kafka calls the security protocol."""
        encrypted = self.ssl != "disable"
        if self.sasl is None:
            return "SSL" if encrypted else "PLAINTEXT"
        return "SASL_SSL" if encrypted else "SASL_PLAINTEXT"


def arguments(options: KafkaOptions, what: str, request_seconds: float) -> dict[str, Any]:
    """Returns the arguments of any client of aiokafka.

    Args:
        what: fails, for the message.
        request_seconds: the longest wait for the answer to a request.

    Raises:
        SetupError: aiokafka is not installed, or a certificate cannot be read.
    """
    try:
        from aiokafka import errors
    except ImportError as error:
        raise SetupError(f"{what}: the driver is not installed ({error}); pip install 'penstock[kafka]'") from error
    errors.kafka_errors.setdefault(INVALID_RECORD, _invalid_record(errors))
    # its lines quote addresses at every attempt; what matters is in our own words
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    return {
        "bootstrap_servers": options.servers,
        "client_id": CLIENT,
        "request_timeout_ms": int(request_seconds * 1000),
        "security_protocol": options.protocol,
        "ssl_context": _context(options, what),
        "sasl_mechanism": options.sasl or "PLAIN",
        "sasl_plain_username": options.user,
        "sasl_plain_password": options.password,
    }


def words_of(error: BaseException, given: Mapping[str, Any]) -> str:
    """Returns what an error of a client means, with the remedy.

    Args:
        given: the `arguments`.
    """
    name = type(error).__name__
    if isinstance(error, KeyError):
        name = "SaslAuthenticationFailed"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}; check `ssl`, the certificates, and that the port is one for TLS"
    if isinstance(error, TimeoutError):
        return "the brokers do not answer in time; check bootstrap_servers, the network, and `ssl` and `sasl` for this port"
    if isinstance(error, OSError):
        return f"cannot connect: {error.strerror or error}; check bootstrap_servers, and that the brokers run"
    remedy = _REMEDIES.get(name)
    if remedy is None:
        return f"the broker answers {name}: {error}"
    return remedy.format(mechanism=given.get("sasl_mechanism"), user=given.get("sasl_plain_username"), error=error)


async def reason_of(given: Mapping[str, Any]) -> str:
    """Returns why no broker of `bootstrap_servers` lets a client in, with the remedy; empty if one does now.

    Args:
        given: the `arguments`.
    """
    from aiokafka.conn import create_conn

    named = {key: value for key, value in given.items() if key.startswith(("sasl", "security", "ssl", "client", "request"))}
    found = ""
    for server in given["bootstrap_servers"]:
        host, _, port = server.rpartition(":")
        try:
            async with timeout(REASON_SECONDS):
                opened = await create_conn(host.strip("[]"), int(port), **named)
        except Exception as error:  # noqa: BLE001 - any error is the answer
            found = found or f"{server}: {words_of(error, given)}"
        else:
            opened.close()
            await asyncio.sleep(0)
            return ""
    return found


def _context(options: KafkaOptions, what: str) -> ssl.SSLContext | None:
    if options.ssl == "disable":
        return None
    proven = options.ssl in ("verify-ca", "verify-full")
    context = tls_context(what, options.ssl_root_certificate, proven=proven, named=options.ssl == "verify-full")
    if options.ssl_certificate is not None:
        try:
            context.load_cert_chain(options.ssl_certificate, options.ssl_key)
        except OSError as error:
            raise SetupError(f"{what}: ssl_certificate and ssl_key cannot be read: {error}") from error
    return context


def _invalid_record(errors: Any) -> type[Exception]:
    class InvalidRecordError(errors.BrokerResponseError):  # type: ignore[misc]
        errno = INVALID_RECORD
        message = "INVALID_RECORD"
        description = "the broker's own checks refuse the record"

    return InvalidRecordError


_REMEDIES = {
    "SaslAuthenticationFailed": "the broker refuses the login of {user!r}; check user, password and `sasl` ({mechanism})",
    "AuthenticationFailedError": "the broker refuses the login of {user!r}; check user, password and `sasl` ({mechanism})",
    "UnsupportedSaslMechanismError": "the broker takes no login by {mechanism}; check `sasl`",
    "IllegalSaslStateError": "the broker takes no login on this port; check `sasl` and the port",
    "KafkaConnectionError": "the broker closed the connection at once: {error}; it may want TLS or a login, so check `ssl`, `sasl` and the port",
    "TopicAuthorizationFailedError": "the user may not use the topic; allow it (an ACL), or check `user`",
    "ClusterAuthorizationFailedError": (
        "the user may not write idempotently; allow IdempotentWrite on the cluster (brokers before 2.8 want it), or check `user`"
    ),
    "UnknownTopicOrPartitionError": "the topic does not exist, and the brokers create none; create it, or check `topic`",
    "InvalidTopicError": "the brokers take no topic of this name; check `topic`",
    "PolicyViolationError": "a policy of the brokers refuses it: {error}",
    "NotEnoughReplicasError": "too few replicas of the topic are in sync (min.insync.replicas); check the brokers",
    "NoBrokersAvailable": "no broker is there; check bootstrap_servers, and that the brokers run",
    "NotLeaderForPartitionError": "a partition has no leader; check the brokers",
    "LeaderNotAvailableError": "a partition has no leader; check the brokers",
    "UnsupportedVersionError": "the broker is too old; Kafka 0.11 and later are supported",
    "IncompatibleBrokerVersion": "the broker is too old; Kafka 0.11 and later are supported",
}
