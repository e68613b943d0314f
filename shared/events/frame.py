"""The frame: a packed batch of events of one site, and the only thing that travels between services.

A frame is MessagePack. Typed heads hold what routing needs; the bodies are the client's JSON bytes, untouched, laid end to
end in one block, compressed with zstd (level 1) from `COMPRESS_FROM_EVENTS` events on. The server's facts about a request are
stored once. So a router forwards a frame without parsing JSON, and often without opening the block.

Reading an old frame must always work: fields are only ever added at the end, with defaults, and `VERSION` grows when a reader
of the old layout could misread the new one. `decode_frame` refuses what it cannot read instead of guessing.

`shared/events/event.py` builds the full event from a frame.
"""

from __future__ import annotations

import operator
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import zstandard

from shared.errors import Permanent

VERSION = 1
COMPRESS_FROM_EVENTS = 20
"""From here on compressing costs Python less than it saves the server (measured: bench/RESULTS.md)."""

MAX_BLOCK_BYTES = 64 * 1024 * 1024
"""No honest frame is larger; a bound on what a damaged length can make us allocate."""

MOST_EVENTS = 65_000
"""No frame holds more: a loader numbers rows by a frame's sequence and the index in it, of which 65,536 fit (`loader/rows/batch.py`)."""

PLAIN, ZSTD = 0, 1


class Head(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The part of one event that routing needs, taken at the edge.

    `message_id` is never empty (the edge makes one where the client sent none). `event` is the name of a track event.
    `request` is the index of its request in `Frame.requests`.
    """

    message_id: str
    type: str
    event: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    request: int = 0

    @property
    def user_key(self) -> str:
        """The identity within which events keep their order: `userId`, else `anonymousId`, else the message id."""
        return self.user_id or self.anonymous_id or self.message_id


class RequestContext(msgspec.Struct, array_like=True, frozen=True):
    """The server's facts about one request.

    `received_at` and `skew` are microseconds; `skew` is receivedAt - sentAt, present only where both are sane. `sent_at` is
    the client's text. `defaults` is a JSON object merged under every event of the request (batch-level `context` and
    `integrations`). `user_agent`, `geo`: parsed facts, absent when unknown.
    """

    received_at: int
    protocol: str
    key: str
    kind: str = "browser"
    ip: str | None = None
    user_agent: str | None = None
    sent_at: str | None = None
    skew: int | None = None
    defaults: bytes | None = None
    headers: dict[str, str] | None = None
    agent: dict[str, str] | None = None
    geo: dict[str, Any] | None = None
    bot: bool = False
    complete: bool = False
    """True: the bodies of this request are full events, as functions gave them, so nothing of the request is merged into them."""

    @property
    def client_bytes(self) -> int:
        """Bytes in it that the client caused, about. Bounds of messages count them: they can be more than the events."""
        held = len(self.user_agent) if self.user_agent else 0
        if self.defaults:
            held += len(self.defaults)
        return held + sum(map(len, self.headers.values())) if self.headers else held


class Frame(msgspec.Struct, array_like=True):
    """Events of one site, in the order of their acceptance. `heads`, `sizes` and the bodies in `block` run in parallel."""

    version: int
    site: str
    requests: list[RequestContext]
    heads: list[Head]
    sizes: list[int]
    codec: int
    block: bytes
    trusted_hints: bool = False
    """True only for frames that a function wrote: the loader then honours type hints inside bodies. Clients' bodies may hold such
    keys too, so the runner of functions removes them from a function's input."""
    origins: list[str] = []
    """Where each event came from first, as in a dead letter; only in a replay of dead letters, else empty."""
    taken: int = -1
    """How many events of the router's frame functions made this one of; -1: as many as it holds. Such a frame may hold none."""
    dropped: dict[str, int] = {}
    """Events of the router's frame that functions left out on purpose, by reason."""
    dead: dict[str, int] = {}
    """Events of the router's frame that became dead letters in functions, by reason."""
    names: list[tuple[str, str, int]] = []
    """As `Names`, for the catalogue; only in frames of the edge and of feeds, and only if they have few names."""

    def __len__(self) -> int:
        return len(self.heads)

    @property
    def source_events(self) -> int:
        """How many events of the router's frame became of this one: as many as it holds, unless functions wrote it."""
        return len(self.heads) if self.taken < 0 else self.taken

    @property
    def made(self) -> int:
        """How many events functions made more than they took; below zero where some wait for another attempt."""
        return len(self.heads) + sum(self.dropped.values()) + sum(self.dead.values()) - self.source_events

    def bodies(self) -> list[bytes]:
        """Returns the body of every event, as the client's bytes.

        Raises:
            Permanent: the block does not hold what `sizes` promises.
        """
        return self.cut(self.open())

    def open(self) -> bytes:
        """Returns the bodies one after the other, decompressed.

        Raises:
            Permanent: the block does not hold what `sizes` promises.
        """
        return _open_block(self)

    def cut(self, block: bytes) -> list[bytes]:
        """Returns the body of every event out of what `open` gave."""
        bodies: list[bytes] = []
        start = 0
        for size in self.sizes:
            end = start + size
            bodies.append(block[start:end])
            start = end
        return bodies


class _Id(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """The beginning of a head; msgspec skips what follows without building it."""

    message_id: str


_ABSENT = msgspec.Raw()
Names = list[tuple[str, str, int]]
"""Type, event name (empty: none) and number of events."""


class _Heads(msgspec.Struct, array_like=True, gc=False):
    version: int
    site: str
    requests: msgspec.Raw
    heads: list[Head]
    sizes: msgspec.Raw = _ABSENT
    codec: int = 0
    block: msgspec.Raw = _ABSENT
    trusted_hints: bool = False
    origins: msgspec.Raw = _ABSENT
    taken: int = -1
    dropped: msgspec.Raw = _ABSENT
    dead: msgspec.Raw = _ABSENT
    names: Names = []


class _Ids(msgspec.Struct, array_like=True, gc=False):
    version: int
    site: str
    requests: msgspec.Raw
    heads: list[_Id]
    sizes: msgspec.Raw = _ABSENT
    codec: int = 0
    block: msgspec.Raw = _ABSENT
    trusted_hints: bool = False
    origins: msgspec.Raw = _ABSENT
    taken: int = -1
    dropped: msgspec.Raw = _ABSENT
    dead: msgspec.Raw = _ABSENT
    names: Names = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)
_heads_decoder = msgspec.msgpack.Decoder(_Heads)
_ids_decoder = msgspec.msgpack.Decoder(_Ids)

MOST_NAMES = 64
"""Names that a frame tells of."""
NAME_CHARACTERS = 200
_name_of = operator.attrgetter("type", "event")


def pack(site: str, requests: Sequence[RequestContext], heads: Sequence[Head], bodies: Sequence[bytes]) -> Frame:
    """Makes a frame of parallel `heads` and `bodies`; compresses the block if that pays."""
    block = b"".join(bodies)
    codec = PLAIN
    if len(heads) >= COMPRESS_FROM_EVENTS:
        block = _compressor().compress(block)
        codec = ZSTD
    return Frame(
        version=VERSION,
        site=site,
        requests=list(requests),
        heads=list(heads),
        sizes=list(map(len, bodies)),
        codec=codec,
        block=block,
    )


_of_thread = threading.local()

_FAST = zstandard.ZstdCompressionParameters(compression_level=1, min_match=7, hash_log=12, write_content_size=True)
"""Level 1 with a table of 16 KiB, which stays in the processor's nearest cache: 8 % less CPU, and frames no larger (0.95 to 1.003)."""


def _compressor() -> zstandard.ZstdCompressor:
    """Returns this thread's compressor: making one costs a fifth of compressing a frame, and threads must not share one."""
    found: zstandard.ZstdCompressor | None = getattr(_of_thread, "compressor", None)
    if found is None:
        found = _of_thread.compressor = zstandard.ZstdCompressor(compression_params=_FAST)
    return found


def select(frame: Frame, indexes: Sequence[int], bodies: Sequence[bytes] | None = None) -> Frame:
    """Returns a frame with only the events at `indexes` (ascending), keeping only the requests they refer to.

    Args:
        bodies: the result of `frame.bodies()`, if the caller has opened the block already.
    """
    if bodies is None:
        bodies = frame.bodies()
    requests: list[RequestContext] = []
    renumbered: dict[int, int] = {}
    heads: list[Head] = []
    kept: list[bytes] = []
    for index in indexes:
        head = frame.heads[index]
        number = renumbered.get(head.request)
        if number is None:
            number = renumbered[head.request] = len(requests)
            requests.append(frame.requests[head.request])
        heads.append(head if number == head.request else msgspec.structs.replace(head, request=number))
        kept.append(bodies[index])
    selected = pack(frame.site, requests, heads, kept)
    selected.trusted_hints = frame.trusted_hints
    if frame.origins:
        selected.origins = [frame.origins[index] for index in indexes]
    return selected


def with_names(frame: Frame) -> Frame:
    """Returns the same frame, which tells the names of its events, if they are few and short."""
    counts = Counter(map(_name_of, frame.heads))
    if len(counts) <= MOST_NAMES and all(len(type_) + len(event or "") <= NAME_CHARACTERS for type_, event in counts):
        frame.names = [(type_, event or "", count) for (type_, event), count in counts.items()]
    return frame


def encode_frame(frame: Frame) -> bytes:
    """Returns the message payload of a frame."""
    return _encoder.encode(frame)


def decode_frame(payload: bytes) -> Frame:
    """Reads a message payload; bodies stay packed until `Frame.bodies` is called.

    Raises:
        Permanent: not a frame, of a newer version, or inconsistent in itself. The payload belongs in the dead letters whole.
    """
    try:
        frame = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Permanent(f"not a readable frame: {exc}") from exc
    _check_version(frame.version)
    if len(frame.heads) != len(frame.sizes):
        raise Permanent(f"frame has {len(frame.heads)} heads but {len(frame.sizes)} bodies")
    if len(frame.origins) not in (0, len(frame.heads)):
        raise Permanent(f"frame has {len(frame.heads)} heads but {len(frame.origins)} origins")
    if any(not 0 <= head.request < len(frame.requests) for head in frame.heads):
        raise Permanent("a head refers to a request the frame does not carry")
    return frame


def decode_heads(payload: bytes) -> list[Head]:
    """Reads the heads alone, at half the cost of `decode_frame`; does not look at the rest.

    Raises:
        Permanent: not a frame, or of a newer version.
    """
    return read_heads(payload)[0]


def decode_ids(payload: bytes) -> list[str]:
    """Reads the message ids alone, at a fifth of the cost of `decode_frame`.

    Raises:
        Permanent: not a frame, or of a newer version.
    """
    return read_ids(payload)[0]


def read_heads(payload: bytes) -> tuple[list[Head], Names]:
    """Returns the heads, and the names as far as the frame tells them; raises as `decode_heads` does."""
    try:
        frame = _heads_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Permanent(f"not a readable frame: {exc}") from exc
    _check_version(frame.version)
    return frame.heads, frame.names


def read_ids(payload: bytes) -> tuple[list[str], Names]:
    """Returns the message ids, and the names as far as the frame tells them; raises as `decode_ids` does."""
    try:
        frame = _ids_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Permanent(f"not a readable frame: {exc}") from exc
    _check_version(frame.version)
    return [head.message_id for head in frame.heads], frame.names


def _check_version(version: int) -> None:
    if version > VERSION:
        raise Permanent(f"frame version {version} is newer than {VERSION}; upgrade this service")


def _open_block(frame: Frame) -> bytes:
    expected = sum(frame.sizes)
    if expected > MAX_BLOCK_BYTES or any(size < 0 for size in frame.sizes):
        raise Permanent(f"frame promises {expected} bytes of bodies, more than the {MAX_BLOCK_BYTES} allowed")
    if frame.codec == PLAIN:
        block = frame.block
    elif frame.codec == ZSTD:
        try:
            block = zstandard.ZstdDecompressor().decompress(frame.block, max_output_size=expected)
        except zstandard.ZstdError as exc:
            raise Permanent(f"frame block cannot be decompressed: {exc}") from exc
    else:
        raise Permanent(f"frame codec {frame.codec} is unknown; upgrade this service")
    if len(block) != expected:
        raise Permanent(f"frame block holds {len(block)} bytes, its sizes promise {expected}")
    return block
