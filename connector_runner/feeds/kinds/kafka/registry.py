"""Values in the form of a schema registry, as JSON: Avro, Protobuf and JSON, by the registry's own numbers of schemas.

A value is a zero byte, the number of its schema in four bytes, and the data; of Protobuf with the place of the message type before
them. Schemas never change under their number, so each is asked for once.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from shared.errors import UNREADABLE, NotConnected, SetupError, Transient

ASK_SECONDS = 10.0
MOST_SCHEMAS = 5_000
MOST_REFERENCES = 200
HEAD_BYTES = 5
UNKNOWN_SECONDS = 5.0
"""How long a schema that the registry does not have is not asked for again: it may be registered a moment later."""

Decode = Callable[[bytes], bytes]


class Reference(msgspec.Struct, frozen=True):
    """A schema that another one names."""

    name: str
    subject: str
    version: int


class Schema(msgspec.Struct, frozen=True, rename={"type": "schemaType"}):
    """The registry's answer."""

    schema: str
    type: str = "AVRO"
    references: list[Reference] = []


class Registry:
    """A client of a registry, with what it has learned.

    Args:
        what: fails, for messages.
    """

    def __init__(self, url: str, user: str | None, password: str | None, what: str) -> None:
        self._url = url.rstrip("/")
        pair = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
        self._headers = {"Authorization": f"Basic {pair}"} if user else {}
        self._what = what
        self._session: Any = None
        self._decoders: dict[int, Decode | str] = {}
        """By number of the schema; a text says why it cannot be used."""
        self._unknown: dict[int, tuple[float, str]] = {}
        """Schemas that the registry does not have: until when that counts, and its words."""

    async def decode(self, value: bytes) -> tuple[bytes, str]:
        """Returns a value as JSON, or unchanged with the reason why it cannot be read. One without a schema's number is returned as it is.

        Raises:
            NotConnected, Transient: the registry does not answer.
            SetupError: it refuses the login.
        """
        if len(value) < HEAD_BYTES or value[0]:
            return value, ""
        number = int.from_bytes(value[1:HEAD_BYTES], "big")
        decode = self._decoders.get(number)
        if decode is None:
            decode = await self._learn(number)
        if isinstance(decode, str):
            return value, decode
        try:
            return decode(value[HEAD_BYTES:]), ""
        except Exception as exc:  # noqa: BLE001  # whatever a codec says of damaged bytes
            return value, f"it does not fit schema {number}: {type(exc).__name__}: {exc}"

    async def close(self) -> None:
        """Closes its connections."""
        if self._session is not None:
            await self._session.close()

    async def _learn(self, number: int) -> Decode | str:
        now = asyncio.get_running_loop().time()
        until, why = self._unknown.get(number, (0.0, ""))
        if now < until:
            return why
        schema = await self._ask(f"/schemas/ids/{number}")
        if isinstance(schema, str):
            if len(self._unknown) >= MOST_SCHEMAS:
                self._unknown.clear()
            self._unknown[number] = now + UNKNOWN_SECONDS, f"schema {number}: {schema}"
            return self._unknown[number][1]
        if len(self._decoders) >= MOST_SCHEMAS:
            self._decoders.clear()
        try:
            made: Decode | str = await self._decoder(number, schema)
        except ImportError as exc:
            raise SetupError(f"{self._what}: {exc.name} is not installed; pip install 'penstock[schemas]'") from exc
        except (NotConnected, Transient, SetupError):
            raise
        except Exception as exc:  # noqa: BLE001  # whatever a parser of schemas says
            made = f"schema {number} cannot be read: {exc}"
        self._decoders[number] = made
        return made

    async def _decoder(self, number: int, schema: Schema) -> Decode | str:
        match schema.type:
            case "JSON":
                return bytes
            case "AVRO":
                from connector_runner.feeds.kinds.kafka.avro import avro_decoder

                return avro_decoder(schema.schema, [text for _, text in await self._referenced(schema)])
            case "PROTOBUF":
                from connector_runner.feeds.kinds.kafka.protobuf import protobuf_decoder

                whole = await self._ask(f"/schemas/ids/{number}?format=serialized")
                if isinstance(whole, str):
                    return f"schema {number}: {whole}"
                return protobuf_decoder(whole.schema, await self._referenced(whole, "?format=serialized"))
        return f"schema {number} is of type {schema.type}; known are AVRO, PROTOBUF and JSON"

    async def _referenced(self, schema: Schema, suffix: str = "") -> list[tuple[str, str]]:
        """Returns name and text of all schemas that one needs, those without needs first."""
        found: dict[str, str] = {}

        async def visit(each: Schema, within: tuple[str, ...]) -> None:
            for reference in each.references:
                if reference.name in found:
                    continue
                if reference.name in within:
                    raise ValueError(f"{reference.name} needs itself: {' → '.join([*within, reference.name])}")
                if len(found) + len(within) >= MOST_REFERENCES:
                    raise ValueError(f"it needs more than {MOST_REFERENCES} other schemas")
                subject = quote(reference.subject, safe="")
                inner = await self._ask(f"/subjects/{subject}/versions/{reference.version}{suffix}")
                if isinstance(inner, str):
                    raise TypeError(f"{reference.subject} version {reference.version}: {inner}")
                await visit(inner, (*within, reference.name))
                found[reference.name] = inner.schema

        await visit(schema, ())
        return list(found.items())

    async def _ask(self, path: str) -> Schema | str:
        """Returns a schema, or why the registry has none."""
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=ASK_SECONDS))
        try:
            async with self._session.get(self._url + path) as answer:
                text = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            why = str(exc) or type(exc).__name__
            raise NotConnected(f"{self._what}: the schema registry {self._url} does not answer: {why}") from exc
        if status in (401, 403):
            remedy = "check schema_registry_user and schema_registry_password"
            raise SetupError(f"{self._what}: the schema registry {self._url} refuses the login ({status}); {remedy}")
        if status == 404 and b'"error_code"' in text:
            return "the registry does not have it"
        if status == 404:  # else every record of a feed with a wrong address would be a dead letter
            raise SetupError(f"{self._what}: there is no schema registry at {self._url} (404); check schema_registry")
        if status != 200:
            raise Transient(
                f"{self._what}: the schema registry {self._url} answers {status}: {text[:200].decode(errors='replace')}"
            )
        try:
            return msgspec.json.decode(text, type=Schema)
        except UNREADABLE as exc:
            raise SetupError(f"{self._what}: {self._url} answers no schema ({exc}); check schema_registry") from exc
