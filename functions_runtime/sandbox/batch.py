"""Events as they go to a sandbox in one frame, and what became of each as it comes back.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from functions_runtime.sandbox import wire


class Given(NamedTuple):
    """One event for a chain.

    `request`: which of the batch's requests it came with. `user`: events of one user run one after the other. `exact`: it may hold
    numbers that a double does not; False: `shared.events.exact` found none in its body.
    """

    body: bytes
    request: int = 0
    user: int = 0
    retries: int = 0
    exact: bool = True


class Fate(msgspec.Struct, frozen=True, gc=False):
    """What became of one event.

    `kind`: of `wire`. `outputs`: the events that go on. `function`: which one dropped it, or failed. `reason`: of a dead letter.
    `errors`: what functions threw, by name, although the event went on. `retry`: message, function, and whether nothing goes on now.
    """

    kind: int
    outputs: tuple[bytes, ...] = ()
    function: str = ""
    reason: str = ""
    detail: str = ""
    errors: tuple[tuple[str, str], ...] = ()
    retry: tuple[str, str, bool] | None = None


_SAME = Fate(wire.SAME)


def _fate(made: wire.Made, outputs: tuple[bytes, ...]) -> Fate:
    return Fate(
        kind=made.kind,
        outputs=outputs,
        function=made.function,
        reason=made.outputs if made.kind == wire.DEAD and isinstance(made.outputs, str) else "",
        detail=made.detail,
        errors=tuple(made.errors),
        retry=made.retry,
    )


def batch_of(
    number: int, requests: Sequence[Mapping[str, Any]], events: Sequence[Given], *, careful: bool
) -> tuple[wire.Batch, list[bytes]]:
    """Returns the header of a batch, and the bodies in the order of its bytes."""
    bodies = [event.body for event in events]
    sizes = list(map(len, bodies))
    wide = sum(sizes)
    if not all(map(bytes.isascii, bodies)):
        others = [place for place, body in enumerate(bodies) if not body.isascii()]
        wide -= sum(sizes[place] for place in others)
        bodies = [body for body in bodies if body.isascii()] + [bodies[place] for place in others]
        for place in others:
            sizes[place] = -sizes[place]
    header = wire.Batch(
        id=number,
        careful=careful,
        requests=requests,
        retries=[event.retries for event in events] if any(event.retries for event in events) else None,
        sizes=sizes,
        wide=wide,
        indexes=None,
        of=[event.request for event in events] if len(requests) > 1 else None,
        users=[event.user for event in events],
        exact=[place for place, event in enumerate(events) if event.exact],
    )
    return header, bodies


def fates_of(results: Sequence[int | wire.Made], rest: bytes, last: str) -> Iterator[tuple[int, Fate]]:
    """Yields the index of each event and what became of it.

    Args:
        rest: the events that go on, as the guest wrote them.
        last: the last function of the chain.

    Raises:
        wire.Malformed: no guest says this.
    """
    going = rest.split(b"\n") if rest else []
    at = 0
    for made in results:
        if isinstance(made, int):
            if made < 0:
                yield ~made, _SAME
                continue
            count = 1
        else:
            if made.kind not in (wire.SAME, wire.OUTPUTS, wire.DROPPED, wire.DEAD):
                raise wire.Malformed(f"it gave an event the fate {made.kind}")
            count = made.outputs if made.kind == wire.OUTPUTS and isinstance(made.outputs, int) else 0
        end = at + count
        if not at <= end <= len(going):
            raise wire.Malformed("it promised more events than it wrote")
        outputs = tuple(going[at:end])
        at = end
        if isinstance(made, int):
            yield made, Fate(wire.OUTPUTS, outputs, last)
        else:
            yield made.index, _fate(made, outputs)
    if at != len(going):
        raise wire.Malformed("it wrote more events than it promised")
