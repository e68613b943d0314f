"""What a lost broker took with it: events that the archive has, and that a connection's destination never got."""

from __future__ import annotations

from typing import NamedTuple

from loader.queue.memory import Memory
from router.archive.older import Older
from router.archive.past import Past, past_streams
from shared.errors import ConfigError, Problem
from shared.events.headers import stream_of
from shared.jetstream.broker import Broker
from shared.project.snapshot import ConfigSnapshot


class Lost(NamedTuple):
    """Frames `first` to `last` of an EVENTS stream that is gone, for one connection. `known`: its destination says how far it is."""

    connection: str
    stream: str
    first: int
    last: int
    known: bool

    @property
    def replay_id(self) -> str:
        """The id of their replay: the same for the same frames, so that a replay that is begun again repeats nothing."""
        return f"lost-{self.stream}-{self.first}-{self.connection}"


async def lost_frames(*, broker: Broker, config: ConfigSnapshot, site: str, connection: str | None, older: Older) -> list[Lost]:
    """Returns by connection and stream what the archive has beyond the destination, the oldest stream first.

    Args:
        connection: only this one; None: all enabled ones of the site.

    Raises:
        ConfigError: there is no such site or connection.
        NotConnected, Transient: the broker or the archive cannot be read.
    """
    project = config.project
    if site not in project.sites:
        known = ", ".join(sorted(project.sites)) or "none"
        raise ConfigError([Problem("site", f"no site is named {site!r}; known: {known}")])
    names = [name for name, each in project.connections.items() if each.site == site and each.enabled]
    if connection is not None and connection not in names:
        raise ConfigError(
            [
                Problem(
                    "connection", f"site {site!r} has no enabled connection {connection!r}; known: {', '.join(names) or 'none'}"
                )
            ]
        )
    pasts, found = await past_streams(broker, site, older), list[Lost]()
    for name in names if connection is None else [connection]:
        destination = project.connections[name].destination
        memory = Memory(broker, name, destination, project.destinations[destination])
        await memory.read()
        for past in pasts:
            level = _level(memory, past, site)
            first = past.first if level is None else max(past.first, level + 1)
            found.append(Lost(connection=name, stream=past.stream, first=first, last=past.last, known=level is not None))
    return found


def _level(memory: Memory, past: Past, site: str) -> int | None:
    """Returns the last sequence of a stream that the destination has; None: it does not say."""
    lanes = {
        **memory.here.lanes,
        **{lane: max(end for _, end in ranges) for lane, ranges in memory.here.elsewhere.items() if ranges},
    }
    for lane, level in memory.here.lanes.items():
        lanes[lane] = max(level, lanes[lane])
    return max((level for lane, level in lanes.items() if stream_of(lane) == (past.stream, site)), default=None)
