"""`ctx.store`: the key-value store of one connection, in the bucket `store`, the same for all replicas.

Keys of people are any text, so the bucket's key is a hash and the value holds the text beside its own end: an older broker that keeps
expired values gives none of them back.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence, Set
from typing import Any, Protocol

import msgspec

from functions_runtime.sandbox.chain import CallError
from shared.errors import UNREADABLE, Conflict, Permanent, Transient
from shared.jetstream.kv import Entry
from shared.reading.units import Duration

DEFAULT_SECONDS = 31 * 86_400.0
MOST_VALUE_BYTES = 64 * 1024
MOST_KEY_CHARACTERS = 1024
_SEPARATORS = re.compile(r"[\s:/|,;#]")
TTL_MISSING, TTL_NEVER = -2, -1
_LEAST = {"set": 2, "add": 2, "swap": 4}
_TAKEN = {
    "set": "a key and a value",
    "add": "a key and a value",
    "swap": "a key, a value, a time and the revision that `read` gave",
}


class _Kept(msgspec.Struct, array_like=True):
    """A value: its key, when it ends (epoch seconds; 0: never), and its JSON."""

    key: str
    ends_at: float
    value: msgspec.Raw


_decode = msgspec.json.Decoder(_Kept).decode


def names_person(value: bytes, names: Set[str]) -> bool:
    """Whether a stored value is of a person: an id stands in its key, as a whole or between separators, or as a text in its JSON."""
    try:
        kept = _decode(value)
    except UNREADABLE:
        return False
    quoted = bytes(kept.value)
    return bool(
        kept.key in names
        or not names.isdisjoint(_SEPARATORS.split(kept.key))
        or any(msgspec.json.encode(name) in quoted for name in names)
    )


class Entries(Protocol):
    """What holds the values; as `shared.jetstream.kv.Bucket`."""

    async def get(self, key: str) -> Entry | None:
        """As `Bucket.get`."""
        ...

    async def put(self, key: str, value: bytes, *, revision: int | None = None, ttl_seconds: float | None = None) -> int:
        """As `Bucket.put`."""
        ...

    async def erase(self, revision: int) -> None:
        """As `Bucket.erase`."""
        ...


class Store:
    """The store of one connection.

    Args:
        bucket: holds the values of all connections.
        owner: the connection's queue; another connection's functions see nothing of it.
        clock: epoch seconds.
    """

    def __init__(self, bucket: Entries, owner: str, clock: Callable[[], float] = time.time) -> None:
        self._bucket = bucket
        self._owner = owner
        self._clock = clock

    async def call(self, op: str, args: Sequence[Any]) -> Any:
        """Does what a function asks: `get`, `getWithTTL`, `ttl`, `set`, `del`; `add`, which keeps a value that is there; `read` and `swap`.

        `read` gives a value with its revision, 0 where there is none. `swap` writes a value if that is still the revision, and says
        whether it was.

        Raises:
            CallError: the key, the value or the time is none, or the broker does not answer.
        """
        if not args or not isinstance(args[0], str) or not 0 < len(args[0]) <= MOST_KEY_CHARACTERS:
            raise CallError(f"store: a key is a text of 1 to {MOST_KEY_CHARACTERS} characters")
        key = args[0]
        if len(args) < _LEAST.get(op, 1) or (op == "swap" and type(args[3]) is not int):
            raise CallError(f"store: {op} takes {_TAKEN[op]}")
        try:
            match op:
                case "get":
                    found = await self._get(key)
                    return None if found is None else found.value
                case "getWithTTL":
                    found = await self._get(key)
                    return None if found is None else {"value": found.value, "ttl": self._left(found)}
                case "ttl":
                    found = await self._get(key)
                    return TTL_MISSING if found is None else self._left(found)
                case "read":
                    entry = await self._bucket.get(self._place(key))
                    kept = self._kept(key, entry)
                    return {"value": None if kept is None else kept.value, "revision": 0 if entry is None else entry.revision}
                case "swap":
                    return await self._swap(key, args[1], _seconds(args[2]), revision=args[3])
                case "set":
                    await self._set(key, args[1], _seconds(args[2] if len(args) > 2 else None))
                    return None
                case "add":
                    return await self._add(key, args[1], _seconds(args[2] if len(args) > 2 else None))
                case _:
                    entry = await self._bucket.get(self._place(key))
                    if entry is not None:
                        await self._bucket.erase(entry.revision)  # without a marker, which would stay for ever
                    return None
        except (Transient, Permanent) as exc:
            raise CallError(f"store: {exc}") from exc

    def _place(self, key: str) -> str:
        return f"{self._owner}.{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"

    async def _get(self, key: str) -> _Kept | None:
        return self._kept(key, await self._bucket.get(self._place(key)))

    def _kept(self, key: str, entry: Entry | None) -> _Kept | None:
        if entry is None or not entry.value:
            return None
        try:
            kept = _decode(entry.value)
        except UNREADABLE as exc:
            raise CallError(
                f"store: the value of {key[:50]!r} is damaged, or of a later release; delete it or set it again"
            ) from exc
        return None if kept.key != key or (kept.ends_at and kept.ends_at <= self._clock()) else kept

    def _left(self, kept: _Kept) -> float:
        return max(0, round(kept.ends_at - self._clock())) if kept.ends_at else TTL_NEVER

    async def _set(self, key: str, value: object, seconds: float | None, *, revision: int | None = None) -> None:
        try:
            body = msgspec.json.encode(value)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as exc:
            raise CallError(f"store: the value of {key[:50]!r} has no JSON: {type(exc).__name__}") from exc
        if len(body) > MOST_VALUE_BYTES:
            raise CallError(f"store: the value of {key[:50]!r} is larger than {MOST_VALUE_BYTES >> 10} KiB")
        ends_at = 0.0 if seconds is None else self._clock() + seconds
        kept = msgspec.json.encode(_Kept(key, ends_at, msgspec.Raw(body)))
        await self._bucket.put(self._place(key), kept, revision=revision, ttl_seconds=seconds)

    def entry_of(self, key: str, value: object) -> tuple[str, bytes]:
        """Returns how the bucket holds a value that is kept for ever: its key there, and its bytes."""
        return self._place(key), msgspec.json.encode(_Kept(key, 0.0, msgspec.Raw(msgspec.json.encode(value))))

    async def _add(self, key: str, value: object, seconds: float | None) -> Any:
        """Writes a value where there is none; returns the one that is there then."""
        while True:
            entry = await self._bucket.get(self._place(key))
            found = self._kept(key, entry)
            if found is not None:
                return found.value
            if await self._swap(key, value, seconds, revision=entry.revision if entry else 0):
                return value

    async def _swap(self, key: str, value: object, seconds: float | None, *, revision: int) -> bool:
        try:
            await self._set(key, value, seconds, revision=revision)
        except Conflict:
            return False
        return True


def kept_values(entries: Sequence[bytes]) -> dict[str, Any]:
    """Returns the keys and values that a bucket holds."""
    return {kept.key: msgspec.json.decode(kept.value) for kept in map(_decode, entries)}


def _seconds(given: object) -> float | None:
    """Reads how long a value is kept: seconds, `"1d"`, `{ttl}`, or for ever: `"inf"` or -1.

    Raises:
        CallError: it is none of these.
    """
    if isinstance(given, dict):
        given = given.get("ttl")
    if given is None:
        return DEFAULT_SECONDS
    if given in ("inf", -1):
        return None
    try:
        seconds = float(Duration.parse(given))
    except ValueError as exc:
        raise CallError(f"store: {exc}, or inf") from exc
    if seconds < 1:
        raise CallError("store: a value is kept for a second at least")
    return seconds
