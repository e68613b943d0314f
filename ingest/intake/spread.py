"""Which subject of its site an event goes to: the site has one, or one for each of its shards (`shared/events/shards.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.events.frame import Head
from shared.events.shards import Shard, part_of, shard_subject
from shared.jetstream.topology import events_subject

Part = tuple[str, list[Head], list[bytes]]


class Spread:
    """The present number of shards of each site, and the wanted one.

    Args:
        partitions: subjects of a site without shards.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._shards: dict[str, int] = {}
        self.wanted: dict[str, int] = {}
        """Sites whose number changes as soon as none of their events is in an open frame."""

    def want(self, shards: Mapping[str, int]) -> None:
        """Takes the wanted number of each site; 1 where none is named."""
        sites = {*shards, *self._shards}
        self.wanted = {site: shards.get(site, 1) for site in sites if shards.get(site, 1) != self._shards.get(site, 1)}

    def change(self, site: str) -> None:
        """Puts the wanted number of a site in force."""
        self._shards[site] = self.wanted.pop(site)

    def is_one(self, site: str) -> bool:
        """Whether all events of a site go to one subject."""
        return self._partitions == 1 and (not self._shards or self._shards.get(site, 1) == 1)

    def parts(self, site: str, heads: Sequence[Head], bodies: Sequence[bytes]) -> list[Part]:
        """Returns the events by subject."""
        shards = self._shards.get(site, 1)
        parts: dict[int, Part] = {}
        for head, body in zip(heads, bodies, strict=True):
            number = part_of(head.user_key, shards if shards > 1 else self._partitions)
            part = parts.get(number)
            if part is None:
                subject = shard_subject(site, Shard(number, shards)) if shards > 1 else events_subject(site, number)
                part = parts[number] = (subject, [], [])
            part[1].append(head)
            part[2].append(body)
        return list(parts.values())
