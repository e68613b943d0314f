"""The list of suppressed people: their events are left out from now on, and what is stored of them stays.

It is the list of `penstock forget` (`shared/forget/listing.py`), so services need no other. It holds digests and no ids. Who wants to
know whether a person is on it must name the id.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.control.forgetting import with_derived
from shared.errors import ConfigError, Problem
from shared.forget.ids import Listed, digest
from shared.forget.listing import IDS, salt_of, stop_suppressing, suppress
from shared.jetstream import topology
from shared.jetstream.broker import Broker
from shared.jetstream.kv import Bucket
from shared.project.snapshot import current_snapshot

ORIGIN = "suppress"
"""What entries have in place of a request to forget."""


class Suppressed(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the list. `at`: since when (epoch seconds). `by`: `suppress`, or the request of `penstock forget`."""

    digest: str
    at: float
    by: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an id is on the list; `at` and `by` as in `Suppressed`."""

    id: str
    suppressed: bool
    at: float = 0.0
    by: str = ""


async def add(broker: Broker, names: Sequence[str]) -> int:
    """Puts ids on the list, and what privacy rules that hash make of them; returns how many entries that are.

    Raises:
        ConfigError: no id is given, or one that no event can have.
        NotConnected, Transient: some may not be on the list; do it again.
    """
    wanted = await _derived(broker, names)
    return len(await suppress(broker, wanted, ORIGIN))


async def remove(broker: Broker, names: Sequence[str], digests: Sequence[str] = ()) -> int:
    """Takes ids off the list, and what privacy rules make of them; returns how many entries were there.

    Args:
        digests: entries to take off by what `entries` shows of them.

    Raises:
        ConfigError: an id that no event can have, or a digest that is none.
        NotConnected, Transient: some may still be on the list; do it again.
    """
    for each in digests:
        if len(each) != 32 or not set(each) <= set("0123456789abcdef"):
            raise ConfigError(
                [Problem("--digest", f"expected 32 of 0-9 and a-f, as `penstock suppress list` shows, got {each!r}")]
            )
    salt = await salt_of(broker)
    wanted = [*digests, *(digest(name, salt) for name in (await _derived(broker, names) if names else ()))]
    there = await Bucket(broker, topology.FORGOTTEN_BUCKET).get_many([IDS + each for each in wanted])
    await stop_suppressing(broker, [key.removeprefix(IDS) for key in there])
    return len(there)


async def entries(broker: Broker) -> list[Suppressed]:
    """Returns the list, the oldest entry first.

    Raises:
        NotConnected, Transient: the broker does not work, or no service has made the bucket.
    """
    bucket = Bucket(broker, topology.FORGOTTEN_BUCKET)
    found = await bucket.get_many(await bucket.keys(IDS))
    listed = [(key.removeprefix(IDS), msgspec.json.decode(entry.value or b"", type=Listed)) for key, entry in found.items()]
    return sorted((Suppressed(digest=key, at=each.at, by=each.request) for key, each in listed), key=lambda each: each.at)


async def check(broker: Broker, names: Sequence[str]) -> list[Checked]:
    """Says of each id whether it is on the list.

    Raises:
        NotConnected, Transient: the broker does not work, or no service has made the bucket.
    """
    salt = await salt_of(broker)
    there = await Bucket(broker, topology.FORGOTTEN_BUCKET).get_many([IDS + digest(name, salt) for name in names])
    found: list[Checked] = []
    for name in names:
        entry = there.get(IDS + digest(name, salt))
        if entry is None or not entry.value:
            found.append(Checked(id=name, suppressed=False))
        else:
            listed = msgspec.json.decode(entry.value, type=Listed)
            found.append(Checked(id=name, suppressed=True, at=listed.at, by=listed.request))
    return found


async def _derived(broker: Broker, names: Sequence[str]) -> list[str]:
    wanted = list(dict.fromkeys(name for name in names if name))
    if not wanted:
        raise ConfigError([Problem("ID", "expected an id; name it, or a file of ids with --ids")])
    for name in wanted:
        if "\0" in name or any("\ud800" <= each <= "\udfff" for each in name):
            raise ConfigError([Problem("ID", f"{name!r} is no text in UTF-8, so no event has it as an id")])
    return with_derived((await current_snapshot(broker)).project, wanted)
