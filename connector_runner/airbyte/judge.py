"""Judges what a connector gives in one read: only what was asked for, no row less than it counted, and each stream to its end. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from connector_runner.contract import Checkpoint, Ended, JsonRows, StreamName
from shared.errors import Permanent, Transient


class Judge:
    """What came in one read so far.

    Args:
        asked: the streams of the read.
        counts: whether the connector's own counts of rows must be right.
    """

    def __init__(self, asked: Iterable[StreamName], *, counts: bool = True) -> None:
        self._since = dict.fromkeys(asked, 0)
        """Rows of each stream since its last state."""
        self._counts = counts
        self._of_all: bool | None = None
        self._ends: dict[StreamName, bool] = {}

    def take(self, rows: JsonRows) -> None:
        """Takes rows.

        Raises:
            Permanent: its stream was not asked for; the rows would have no place, and the next state would say that it arrived.
        """
        try:
            self._since[rows.stream] += len(rows.rows)
        except KeyError:
            alike = [str(each) for each in self._since if each.name == rows.stream.name]
            hint = f"; asked for, with another namespace: {', '.join(alike)}" if alike else ""
            raise Permanent(f"the connector gave a row of the stream {rows.stream}, which was not asked for{hint}") from None

    def takes(self, state: Checkpoint) -> bool:
        """Returns whether a state is of a stream that was asked for.

        Raises:
            Transient: it counts other rows than came.
            Permanent: the connector gives states of streams and of all streams together.
        """
        if self._of_all not in (None, state.stream is None):
            raise Permanent("the connector gave a state of one stream and a state of all streams; which one holds is not known")
        self._of_all = state.stream is None
        if state.stream is not None and state.stream not in self._since:
            return False
        came = sum(self._since.values()) if state.stream is None else self._since[state.stream]
        if self._counts and state.rows is not None and state.rows != came:
            raise Transient(
                f"the connector counts {state.rows} rows of {state.stream or 'all streams'} since the last state, and {came} came; "
                "if it always counts wrong, write `verify_counts: false`"
            )
        for stream in self._since if state.stream is None else (state.stream,):
            self._since[stream] = 0
        return True

    def end(self, ended: Ended) -> None:
        """Takes the word of the connector about the end of a stream. The last one holds."""
        self._ends[ended.stream] = ended.complete

    @property
    def ends(self) -> list[Ended]:
        """The ends of the streams that were asked for, as the connector told them."""
        return [Ended(stream, self._ends[stream]) for stream in self._since if stream in self._ends]

    @property
    def missing(self) -> list[str]:
        """The streams that the connector did not call complete."""
        return [str(stream) for stream in self._since if not self._ends.get(stream)]
