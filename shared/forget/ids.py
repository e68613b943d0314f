"""The list of forgotten ids in memory: whether an event belongs to a person who is forgotten. Exact, and pure.

The list holds no id. It holds a digest of each (BLAKE2b of 128 bits, keyed with a random salt of this installation), and beside it 16
bits of a salted checksum. The checksum costs a fifth of a digest, so only one id in 65,536 that is on no list pays for a digest. Digests
decide, so no neighbour is left out. Who has both the list and a guess can test the guess; see `docs/forget.md`.

An empty list is false, and its callers ask it nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from zlib import crc32

import msgspec

from shared.events.frame import Head

SALT_BYTES = 32
_DIGEST_BYTES = 16
_CHECK_BITS = 0xFFFF

_FURTHER = frozenset({"alias", "group"})
"""Types whose bodies have an id that the head has not."""

_WRITTEN = re.compile(
    rb'"(user_?id|anonymous_?id|previous_?id|group_?id)"\s*:\s*(?:("(?:[^"\\]|\\.)*+")|([^\s,{}\[\]"]++))', re.IGNORECASE
)


class _Further(msgspec.Struct, rename="camel", gc=False):
    previous_id: str | None = None
    group_id: str | None = None


_read_further = msgspec.json.Decoder(_Further).decode
_read_text = msgspec.json.Decoder(str).decode


class Listed(msgspec.Struct, frozen=True):
    """An id on the list, as the bucket `forgotten` has it under its digest.

    `salt` and `check` in hexadecimal and as a number; `at` (epoch) and `request` say when and by which request it came.
    """

    salt: str
    check: int
    at: float = 0.0
    request: str = ""


def digest(name: str, salt: bytes) -> str:
    """Returns the digest of an id, in hexadecimal."""
    return blake2b(_bytes(name), key=salt, digest_size=_DIGEST_BYTES).hexdigest()


def listed(name: str, salt: bytes, *, at: float, request: str) -> Listed:
    """Returns the entry of an id."""
    return Listed(salt.hex(), _check(_bytes(name), _seed(salt)), at, request)


class Forgotten:
    """The forgotten ids; false while there are none."""

    def __init__(self) -> None:
        self._digests: dict[str, Listed] = {}
        self._salts: dict[bytes, tuple[int, set[int]]] = {}
        """By salt its seed and the checksums of its ids. There is one salt, unless a backup brought another."""

    def __bool__(self) -> bool:
        return bool(self._salts)

    def __len__(self) -> int:
        return len(self._digests)

    def put(self, key: str, entry: Listed | None) -> None:
        """Takes an entry by its digest; None takes it off the list."""
        if entry is not None:
            self._digests[key] = entry
            salt = bytes.fromhex(entry.salt)
            self._salts.setdefault(salt, (_seed(salt), set()))[1].add(entry.check)
        elif self._digests.pop(key, None) is not None and not self._digests:
            # checksums of single ids stay till then: they only cost a digest now and then
            self._salts = {}

    def has(self, key: str) -> bool:
        """Whether a digest is on the list."""
        return key in self._digests

    def holds(self, name: str) -> bool:
        """Whether an id is on the list."""
        text = _bytes(name)
        return any(
            crc32(text, seed) & _CHECK_BITS in checks and digest(name, salt) in self._digests
            for salt, (seed, checks) in self._salts.items()
        )

    def find(self, heads: Sequence[Head], bodies: Callable[[], Sequence[bytes | msgspec.Raw]]) -> list[int]:
        """Returns the indexes of events of forgotten people, ascending: by `userId` and `anonymousId`, and by `previousId` and `groupId` of
        events of the types alias and group.

        Args:
            bodies: returns the bodies of all events; called only where a type needs it.
        """
        names = {head.user_id for head in heads}
        names.update([head.anonymous_id for head in heads])
        names.discard(None)
        hits: set[str] = set()
        for seed, checks in self._salts.values():  # one, so this loop runs once, and all in it is hot
            likely = [
                name for name in names if name and crc32(name.encode("utf-8", "surrogatepass"), seed) & _CHECK_BITS in checks
            ]
            hits.update(filter(self.holds, likely))
        further = [index for index, head in enumerate(heads) if head.type in _FURTHER]
        if not hits and not further:
            return []
        found = (
            {index for index, head in enumerate(heads) if head.user_id in hits or head.anonymous_id in hits} if hits else set()
        )
        if further:
            all_bodies = bodies()
            found.update(index for index in further if index not in found and self._holds_further(bytes(all_bodies[index])))
        return sorted(found)

    def is_in(self, body: bytes) -> bool:
        """Whether bytes that may be no JSON name a forgotten id as `userId`, `anonymousId`, `previousId` or `groupId`."""
        return any(map(self.holds, names_in(body)))

    def _holds_further(self, body: bytes) -> bool:
        try:
            read = _read_further(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return self.is_in(body)
        return any(name is not None and self.holds(name) for name in (read.previous_id, read.group_id))


def names_in(body: bytes) -> set[str]:
    """Returns the ids that stand anywhere in bytes, also if the bytes are no JSON."""
    return {name for _, name in _named(body)}


def ids_in(body: bytes) -> dict[str, str]:
    """Returns the first id of each kind that bytes name; the kinds are `userid`, `anonymousid`, `previousid` and `groupid`."""
    found: dict[str, str] = {}
    for kind, name in _named(body):
        found.setdefault(kind, name)
    return found


def _named(body: bytes) -> Iterator[tuple[str, str]]:
    for kind, text, bare in _WRITTEN.findall(body):
        key = kind.decode().lower().replace("_", "")
        if bare:
            if bare != b"null":
                yield key, bare.decode("utf-8", "replace")
            continue
        try:
            yield key, _read_text(text)
        except (msgspec.MsgspecError, UnicodeError):
            yield key, text[1:-1].decode("utf-8", "replace")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _seed(salt: bytes) -> int:
    return int.from_bytes(salt[:4])


def _check(text: bytes, seed: int) -> int:
    return crc32(text, seed) & _CHECK_BITS
