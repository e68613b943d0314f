"""Hostile WebSockets and connections, a script each: it attacks, and says what it heard that it should not have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import zlib
from collections.abc import Awaitable, Callable

import msgspec

from tests.hostile.edge import KEY, MIB, Target, read_status, request
from tests.support import dear_bodies

Script = Callable[[Target], Awaitable[None]]

SHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate"}


def frame(
    opcode: int, payload: bytes = b"", *, last: bool = True, packed: bool = False, masked: bool = True, claims: int | None = None
) -> bytes:
    """Returns a frame. `claims` is the length it states, where that is not its own."""
    length = len(payload) if claims is None else claims
    first = opcode | (0x80 if last else 0) | (0x40 if packed else 0)
    mask = 0x80 if masked else 0
    if length < 126:
        head = bytes([first, mask | length])
    elif length < 65536:
        head = bytes([first, mask | 126]) + struct.pack("!H", length)
    else:
        head = bytes([first, mask | 127]) + struct.pack("!Q", length)
    return head + (bytes(4) if masked else b"") + payload


@contextlib.asynccontextmanager
async def socket(target: Target, *, key: str | None = None, headers: dict[str, str] | None = None):  # type: ignore[no-untyped-def]
    """A WebSocket by hand: the library would not let us misbehave."""
    async with target.connection() as (reader, writer):
        line = "GET /v1/ws" + (f"?writeKey={key}" if key else "")
        writer.write(request(line, b"", {**SHAKE, **(headers or {})}))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head, head
        yield reader, writer


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """Reads until the server ends the connection."""
    heard = b""
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65536):
            heard = (heard + part)[-4096:]
    return heard


async def ends(target: Target, *frames: bytes, key: str | None = None, headers: dict[str, str] | None = None) -> None:
    """Sends frames after which the server must end the connection."""
    async with socket(target, key=key, headers=headers) as (reader, writer):
        for data in frames:
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        await until_closed(reader)


def packed(data: bytes) -> bytes:
    """Deflates a message as the extension has it."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def unfinished_frames(target: Target) -> None:
    """A hundred strangers begin a frame of 8 MiB each and send what they may of it."""

    async def one() -> None:
        async with socket(target) as (reader, writer):
            writer.write(frame(2, b"x" * (256 * 1024), claims=8 * MIB - 1))
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            await until_closed(reader)

    await asyncio.gather(*(one() for _ in range(100)))


async def many_fragments(target: Target) -> None:
    await ends(target, frame(1, b"[", last=False), *[frame(0, b"", last=False)] * 20_000, frame(0, b"x" * 20_000, last=False))


async def fragments_with_a_key(target: Target) -> None:
    """Thirty clients with a key hold 7 MiB each of a message that never ends; they may, within the sum, and it is given back."""

    async def one() -> None:
        async with socket(target, key=KEY) as (_, writer):
            for _ in range(7):
                writer.write(frame(2, b"x" * MIB, last=False) if not _ else frame(0, b"x" * MIB, last=False))
                with contextlib.suppress(ConnectionError):
                    await writer.drain()

    await asyncio.gather(*(one() for _ in range(20)))


async def fragments_of_a_byte(target: Target) -> None:
    """A message in as many frames as it has bytes."""
    async with socket(target, key=KEY) as (reader, writer):
        await reader.read(100)
        for _ in range(20):
            writer.write(
                frame(0, b"x", last=False) * 1000 if _ else frame(1, b"[", last=False) + frame(0, b"x", last=False) * 999
            )
            await writer.drain()
        writer.write(frame(0, b"]"))
        await reader.read(300)


async def keys_offered(target: Target) -> None:
    """A handshake with a thousand keys, and messages of which each would look all of them up."""
    offered = ", ".join(["key.d2Vi", *["key.d2Vi"] * 1500])
    async with socket(target, headers={"Sec-WebSocket-Protocol": offered}) as (reader, writer):
        await reader.read(100)
        writer.write(frame(1, b'{"id":1,"event":{"type":"page","userId":"u"}}') * 50)
        heard = b""
        while heard.count(b'"ack"') < 50:
            part = await reader.read(65536)
            assert part, heard
            heard += part


async def packed_array(target: Target) -> None:
    """Eight kilobytes that unpack to eight million empty values of MessagePack."""
    message = b"\x82\xa2id\x01\xa5batch\xdd" + struct.pack("!I", 7_000_000) + b"\x80" * 7_000_000
    async with socket(target, key=KEY, headers=DEFLATE) as (reader, writer):
        await reader.read(100)
        writer.write(frame(2, packed(message), packed=True))
        await reader.read(300)


def message(name: str) -> Script:
    """Returns an attack of one MessagePack message, which must be answered."""

    async def send(target: Target) -> None:
        async with socket(target, key=KEY) as (reader, writer):
            writer.write(frame(2, dear_bodies.PACKED[name]()))
            heard = b""
            while b"accepted" not in heard and b"error" not in heard:
                part = await reader.read(65536)
                assert part, heard
                heard += part

    return send


async def packed_from_a_stranger(target: Target) -> None:
    await ends(target, frame(1, packed(b" " * (8 * MIB)), packed=True), headers=DEFLATE)


async def deep_packed(target: Target) -> None:
    message = b"\x82\xa2id\x01\xa5event" + b"\x91" * 200_000 + b"\x01"
    async with socket(target, key=KEY) as (reader, writer):
        await reader.read(100)
        writer.write(frame(2, message))
        await reader.read(300)


async def ping_flood(target: Target) -> None:
    """Twenty thousand pings of a stranger, whose answers nobody reads."""
    async with socket(target) as (_, writer):
        for _ in range(20):
            writer.write(frame(9, b"p" * 125) * 1000)
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.2):
                    await writer.drain()


async def unmasked(target: Target) -> None:
    await ends(target, frame(1, b'{"key":"web"}', masked=False) + frame(8, b"", masked=False))


async def huge_claim(target: Target) -> None:
    await ends(target, frame(2, b"x", claims=2**62), key=KEY)


async def long_ping(target: Target) -> None:
    await ends(target, frame(9, b"p" * 200), key=KEY)


async def odd_opcode(target: Target) -> None:
    await ends(target, frame(3, b"x"), key=KEY)


async def reserved_bits(target: Target) -> None:
    await ends(target, b"\xf1" + frame(1, b"x")[1:], key=KEY)


async def wrong_key(target: Target) -> None:
    await ends(target, frame(1, b'{"key":"nobody"}'))


async def broken_utf8(target: Target) -> None:
    await ends(target, frame(1, b"\xff\xfe"), key=KEY)


async def garbage_with_a_key(target: Target) -> None:
    async with socket(target, key=KEY) as (reader, writer):
        for _ in range(50):
            writer.write(frame(2, os.urandom(300)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while await reader.read(4096):
                    pass


async def unread_acks(target: Target) -> None:
    """A client with a key that sends and never reads."""
    message = msgspec.json.encode({"id": 1, "batch": [{"type": "track"}] * 50})
    async with socket(target, key=KEY) as (_, writer):
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1.5):
                while True:
                    writer.write(frame(1, message))
                    await writer.drain()


async def half_open(target: Target) -> None:
    """Three hundred connections that say nothing until they are let go."""

    async def one() -> None:
        async with target.connection() as (reader, _):
            status = await read_status(reader)
            assert status in (0, 408, 503), status

    await asyncio.gather(*(one() for _ in range(300)))


async def unfinished_heads(target: Target) -> None:
    """Two hundred requests with as many headers as they may send, and no end."""
    head = b"POST /v1/page HTTP/1.1\r\nHost: a\r\n" + b"".join(b"A%d: %b\r\n" % (n, b"x" * 15_000) for n in range(120))

    async def one() -> None:
        async with target.connection() as (reader, writer):
            writer.write(head)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            await until_closed(reader)

    await asyncio.gather(*(one() for _ in range(200)))


async def slow_head(target: Target) -> None:
    """A header line every tenth of a second."""
    async with target.connection() as (reader, writer):
        writer.write(b"POST /v1/page HTTP/1.1\r\n")
        answer = asyncio.create_task(read_status(reader))
        while not (await asyncio.wait([answer], timeout=0.1))[0]:
            writer.write(b"A: b\r\n")
        assert answer.result() in (0, 408)


async def slow_body(target: Target) -> None:
    """A byte of the body every tenth of a second."""
    async with target.connection() as (reader, writer):
        writer.write(b"POST /v1/page HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        answer = asyncio.create_task(read_status(reader))
        while not (await asyncio.wait([answer], timeout=0.1))[0]:
            writer.write(b"{")
        assert answer.result() in (0, 408)


async def announced_bodies(target: Target) -> None:
    """Six hundred large bodies, announced and never sent."""
    head = b"POST /v1/batch HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n"

    async def one() -> None:
        async with target.connection() as (reader, writer):
            writer.write(head)
            assert await read_status(reader) in (0, 408, 503)

    await asyncio.gather(*(one() for _ in range(600)))


async def unread_answers(target: Target) -> None:
    """Pipelined requests whose answers nobody reads."""
    data = request("GET /v1/projects/web/settings") * 100
    async with target.connection() as (_, writer):
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1.5):
                while True:
                    writer.write(data)
                    await writer.drain()


async def vanishing(target: Target) -> None:
    """Clients that hang up in the middle of everything."""
    for data in (
        b"",
        b"POST /v1/pa",
        request("POST /v1/page", b"{}", {"Content-Length": "100"})[:-1],
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        for _ in range(25):
            async with target.connection() as (_, writer):
                writer.write(data)


SCRIPTS: dict[str, tuple[Script, int]] = {
    script.__name__: (script, requests)
    for script, requests in (
        (unfinished_frames, 100),
        (many_fragments, 1),
        (fragments_of_a_byte, 20_000),
        (keys_offered, 50),
        (fragments_with_a_key, 140),
        (packed_array, 1),
        (packed_from_a_stranger, 1),
        (deep_packed, 1),
        (ping_flood, 20_000),
        (unmasked, 1),
        (huge_claim, 1),
        (long_ping, 1),
        (odd_opcode, 1),
        (reserved_bits, 1),
        (wrong_key, 1),
        (broken_utf8, 1),
        (garbage_with_a_key, 50),
        (unread_acks, 1000),
        (half_open, 300),
        (unfinished_heads, 200),
        (slow_head, 20),
        (slow_body, 20),
        (announced_bodies, 600),
        (unread_answers, 1000),
        (vanishing, 100),
    )
}
SCRIPTS |= {f"message-of-{name}": (message(name), 1) for name in dear_bodies.PACKED}
"""By name: the attack, and of how many requests or frames it consists."""
