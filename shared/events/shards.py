"""How a site is spread over several routers: which of them a frame of EVENTS, or an event in it, belongs to.

A site has one shard, or `shards` of them. The key of an event's user decides, so a user's events stay in one shard and in order. A
*split* says how many shards route the frames from a sequence of EVENTS on; a site's *layout* is the list of its splits. A change of
the number adds a split. So the shard of an event is a function of its sequence and its user, for every reader at any time, also for
one that reads the past again. docs/decisions/shards.md says why, and how the number changes.

Ingest packs the users of a shard into frames of their own, so a shard takes whole frames without opening them. That saves work and
decides nothing: a frame of another number of shards is cut by its events' users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec
from msgspec import field

from shared.errors import Permanent, SetupError
from shared.events.frame import Head, decode_frame, decode_heads, decode_ids, encode_frame, select
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket

MOST_SHARDS = 16
PATTERN = "shards.*"
_PREFIX = "shards."


class Shard(NamedTuple):
    """One of a site's shards: `number` counts from 0."""

    number: int = 0
    of: int = 1

    def key(self, site: str) -> str:
        """Returns the name of this shard of a site in leases and states; of the only shard it is the site's."""
        return site if self.of == 1 else f"{site}.{self.of}.{self.number}"

    @property
    def lane(self) -> str:
        """Returns its name in lanes; empty for the only shard."""
        return "" if self.of == 1 else f"{self.of}.{self.number}"

    def __str__(self) -> str:
        return f"shard {self.number + 1} of {self.of}"


WHOLE = Shard()


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From `since` on, a sequence of EVENTS, `of` shards route the site. `at_seconds` is not later than that frame's time."""

    since: int
    of: int
    at_seconds: float = 0.0


class Range(NamedTuple):
    """Sequences that a shard routes: from `first` up to before `end`; None: no end yet. `begins`: a split begins at `first`, behind
    another one."""

    first: int
    end: int | None
    at_seconds: float
    begins: bool


class Layout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The splits of a site in one incarnation of EVENTS, the oldest first.

    A value with a field that this release does not know is refused, since the field may say who routes an event.

    `wish`: the number of shards that is to come, while the present ones stop for it; 0: none. `change` counts wishes.
    """

    incarnation: str = ""
    splits: list[Split] = field(default_factory=lambda: [Split(1, 1)])
    wish: int = 0
    change: int = 0
    ever: list[int] = []
    """Numbers of shards in former EVENTS streams: these shards route nothing, and keep their counts."""

    def __post_init__(self) -> None:
        if not self.splits or not all(0 < of <= MOST_SHARDS for of in (*self.ever, *(each.of for each in self.splits))):
            raise ValueError(f"expected splits of 1 to {MOST_SHARDS} shards")

    @property
    def present(self) -> int:
        """The number of shards of the newest split."""
        return self.splits[-1].of

    @property
    def shards(self) -> list[Shard]:
        """All shards that ever routed the site: a former one reads its frames again where a destination lost them."""
        return [Shard(number, of) for of in sorted({*self.ever, *(split.of for split in self.splits)}) for number in range(of)]

    def index(self, seq: int) -> int:
        """Returns the place in `splits` of the split that a sequence is in."""
        return next((place for place in range(len(self.splits) - 1, 0, -1) if self.splits[place].since <= seq), 0)

    def next_range(self, shard: Shard, seq: int) -> Range | None:
        """Returns the sequences that a shard routes next, from a sequence on; None: none."""
        for place in range(self.index(seq), len(self.splits)):
            split = self.splits[place]
            if split.of == shard.of:
                first = max(seq, split.since) if place else seq
                end = self.splits[place + 1].since if place + 1 < len(self.splits) else None
                return Range(first, end, split.at_seconds, begins=place > 0 and first == split.since)
        return None

    def until(self, shard: Shard) -> int:
        """Returns the sequence before which a shard's frames end; 0: it routes what comes."""
        ends = [self.splits[place + 1].since for place, split in enumerate(self.splits[:-1]) if split.of == shard.of]
        return 0 if self.present == shard.of else max(ends, default=1)


def layout_key(site: str) -> str:
    """Returns the key of a site's layout in the bucket `state`."""
    return _PREFIX + site


def site_of(key: str) -> str:
    """Returns the site of a layout's key, or of a shard's name."""
    return key.removeprefix(_PREFIX).partition(".")[0]


def decode_layout(value: bytes | None, site: str) -> Layout | None:
    """Reads a value; None: there is none.

    Raises:
        SetupError: it is damaged, or of a later release.
    """
    try:
        return msgspec.json.decode(value, type=Layout) if value else None
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise SetupError(
            f"the layout of site {site} ({layout_key(site)} of the bucket `state`) cannot be read: {exc}; "
            "run the release that wrote it, or put its value of before back"
        ) from exc


def shard_of(key: str) -> Shard:
    """Returns the shard of a name that `Shard.key` gave."""
    _, _, shard = key.partition(".")
    of, dot, number = shard.partition(".")
    return Shard(int(number), int(of)) if dot else WHOLE


async def read_layout(broker: Broker, site: str) -> Layout | None:
    """Returns the layout of a site; None: it always had one shard.

    Raises:
        NotConnected: the broker does not answer.
        SetupError: it cannot be read.
    """
    entry = await Bucket(broker, topology.STATE_BUCKET).get(layout_key(site))
    return decode_layout(entry.value, site) if entry is not None else None


async def read_layouts(broker: Broker) -> tuple[dict[str, Layout], dict[str, str]]:
    """Returns the layouts of all sites that have one; and of sites whose layout cannot be read, why.

    Raises:
        NotConnected: the broker does not answer.
    """
    found: dict[str, Layout] = {}
    damaged: dict[str, str] = {}
    for entry in await Bucket(broker, topology.STATE_BUCKET).entries(_PREFIX):
        site = site_of(entry.key)
        try:
            layout = decode_layout(entry.value, site)
        except SetupError as exc:
            damaged[site] = str(exc)
            continue
        if layout is not None:
            found[site] = layout
    return found, damaged


def shards_of(layout: Layout | None) -> Sequence[Shard]:
    """Returns the shards of a site's layout."""
    return (WHOLE,) if layout is None else layout.shards


def part_of(user_key: str, parts: int) -> int:
    """Returns the part of a user: the same on every host and in every release."""
    return crc32(user_key.encode("utf-8", "surrogatepass")) % parts


def shard_subject(site: str, shard: Shard) -> str:
    """Returns the subject of frames that ingest packed for a shard; of the only shard it is the site's."""
    return topology.events_subject(site) if shard.of == 1 else topology.events_subject(site, f"{shard.number}-{shard.of}")


def packed_for(subject: str) -> Shard:
    """Returns the shard that a frame was packed for; `WHOLE`: for none."""
    number, dash, of = subject.rpartition(".")[2].partition("-")
    return Shard(int(number), int(of)) if dash and number.isdecimal() and of.isdecimal() and int(of) else WHOLE


def belongs(subject: str, shard: Shard) -> bool | None:
    """Says whether all events of a frame are of a shard's users, or none; None: its events tell."""
    packed = packed_for(subject)
    return None if packed.of % shard.of else packed.number % shard.of == shard.number


def ids_of(subject: str, payload: bytes, shard: Shard) -> Sequence[str]:
    """Returns the message ids of the events of a shard's users in a frame. Another shard may have routed it.

    Raises:
        Permanent: the frame cannot be read.
    """
    whole = belongs(subject, shard)
    if whole is None:
        return [head.message_id for head in decode_heads(payload) if _is_of(head, shard)]
    return decode_ids(payload) if whole else ()


def cut(subject: str, payload: bytes, shard: Shard) -> bytes | None:
    """Returns the part of a frame that belongs to a shard, as a frame; None: nothing of it does.

    A frame that cannot be read belongs to the first shard, as it is.
    """
    whole = belongs(subject, shard)
    if whole is not None:
        return payload if whole else None
    try:
        heads = decode_heads(payload)
        mine = [index for index, head in enumerate(heads) if _is_of(head, shard)]
        if len(mine) == len(heads):
            return payload
        return encode_frame(select(decode_frame(payload), mine)) if mine else None
    except Permanent:
        return None if shard.number else payload


def _is_of(head: Head, shard: Shard) -> bool:
    return part_of(head.user_key, shard.of) == shard.number


def words_of(site: str, layout: Layout, done: Mapping[Shard, bool]) -> str:
    """Returns what a change of the number of shards waits for, in words; empty: nothing.

    Args:
        done: of the shards that must stop, or end, whether they have.
    """
    waits = ", ".join(str(shard) for shard, is_done in done.items() if not is_done)
    if layout.wish:
        return f"site {site} goes from {counted(layout.present)} to {layout.wish}" + (
            f": {waits} has yet to stop" if waits else ""
        )
    if waits:
        return f"site {site} has {counted(layout.present)}; draining {waits}"
    return ""


def counted(shards: int) -> str:
    """Returns a number of shards in words."""
    return f"{shards} shard{'' if shards == 1 else 's'}"
