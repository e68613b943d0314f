"""The end of every fault test: everything settled, everything read, nothing wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.faults.places import Place
from tests.support.exactly_once import audited, dead_letters, problems, settled, unbalanced
from tests.support.sender import Books, Fate
from tests.support.stack import Stack


async def verify(
    running: Stack,
    books: Books,
    places: Mapping[str, Place],
    *,
    seconds: float = 60.0,
    fates: Mapping[str, Mapping[str, Fate]] | None = None,
    but: Iterable[str] = (),
    ids: bool = False,
) -> None:
    """Waits until all is settled, and holds every connection's place against the books.

    Args:
        places: by connection; each is the place of that connection alone.
        fates: by connection, where it is not what the books say.
        but: connections that need not be settled and are not looked at.
        ids: nothing was taken out of the places, so `penstock status --check` must find nothing either.

    Raises:
        AssertionError: says for each connection what is wrong.
    """
    dead_services = [name for name in running.names if not running.running(name)]
    assert not dead_services, f"{dead_services} ended by themselves"
    await settled(running, seconds, but=but)
    dead = await dead_letters(running.url)
    wrong = await unbalanced(running)
    if ids:
        wrong += await audited(running)
    for connection, place in places.items():
        if connection not in but:
            fate = (fates or {}).get(connection)
            found = problems(books, await place.rows(), dead, connection=connection, fate=fate)
            wrong += [f"{connection}: {each}" for each in found]
    assert not wrong, "\n".join([*wrong, f"answers: {dict(books.statuses)}", *books.refused[:3]])
    assert books.acknowledged, "nothing was acknowledged, so nothing was tested"
    assert not books.refused, books.refused[:3]
    assert not books.retry_after_missing
