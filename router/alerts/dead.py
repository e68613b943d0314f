"""New dead letters, gathered: letters of one stage and site or connection are one *run*, until none came for a while."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from router.alerts.judge.facts import DeadRun
from shared.errors import UNREADABLE
from shared.events.dead import DeadLetter, decode_dead
from shared.events.headers import EVENTS
from shared.jetstream import topology
from shared.jetstream.broker import Broker, asking
from shared.jetstream.reader import StreamReader

QUIET_SECONDS = 900.0
"""A run ends after this time without a letter."""
MOST_MESSAGES = 200
"""Messages of letters that one look reads; of further ones only their number is counted."""
MOST_RUNS = 500
OTHERS = "(others)"
"""The name under which the letters of further connections are counted together."""
MOST_REASONS = 10
READ_SECONDS = 5.0
MOST_TEXT = 100


class DeadMark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far letters were read, and the runs that go on, by stage and name. `seq` -1: never looked."""

    seq: int = -1
    runs: dict[str, DeadRun] = {}


async def read_new(broker: Broker, mark: DeadMark, now: float) -> DeadMark:
    """Returns the mark after a look; the same object if nothing came and nothing ended.

    The first look begins at the end: letters of before the alerts are told by nobody.

    Raises:
        NotConnected: the broker does not answer.
    """
    with asking(f"cannot look at the stream {topology.DEAD}"):
        last = int((await broker.js.stream_info(topology.DEAD)).state.last_seq)
    runs = {name: run for name, run in mark.runs.items() if now - run.last_at < QUIET_SECONDS}
    if mark.seq < 0 or last < mark.seq:  # the stream was created again
        return DeadMark(seq=last, runs=runs)
    if last == mark.seq:
        return mark if len(runs) == len(mark.runs) else DeadMark(seq=last, runs=runs)
    read, whole = 0, False
    async with StreamReader(broker, topology.DEAD, start_seq=mark.seq + 1) as reader:
        while reader.last_seq < last and read < MOST_MESSAGES:
            message = await reader.next(READ_SECONDS)
            if message is None:
                break
            read += 1
            _, stage, name = message.subject.split(".", 2)
            try:
                letters = [letter for letter in decode_dead(message.payload) if letter.id is None]
            except UNREADABLE:
                letters, number = [], int(message.headers.get(EVENTS, "1"))
            else:
                number = len(letters)
            if number:
                runs = add(runs, stage, name, letters=letters, number=number, now=now)
            if message.waiting == 0:
                whole = True  # the newest ones may have been removed meanwhile
                break
        seq = max(reader.last_seq, mark.seq)
    if read == MOST_MESSAGES and seq < last:
        runs = {name: msgspec.structs.replace(run, at_least=True) for name, run in runs.items()}
        seq = last
    return DeadMark(seq=last if whole else seq, runs=runs)


def add(
    runs: Mapping[str, DeadRun], stage: str, name: str, *, letters: list[DeadLetter], number: int, now: float
) -> dict[str, DeadRun]:
    """Returns the runs with more letters. Letters that were stored a second time are left out by the caller. Pure."""
    if f"{stage} {name}" not in runs and len(runs) >= MOST_RUNS:
        name = OTHERS
    key = f"{stage} {name}"
    run = runs.get(key)
    if run is None:
        run = DeadRun(stage=stage, name=name, since=now, last_at=now)
    reasons = dict(run.reasons)
    for letter in letters:
        reason = letter.reason if letter.reason in reasons or len(reasons) < MOST_REASONS else "others"
        reasons[reason] = reasons.get(reason, 0) + 1
    sample = run.sample or (sample_of(letters[0]) if letters else {})
    more = msgspec.structs.replace(run, last_at=now, letters=run.letters + number, reasons=reasons, sample=sample)
    return {**runs, key: more}


def sample_of(letter: DeadLetter) -> dict[str, str]:
    """Returns the part of a letter that says what to look for. Neither its body nor its detail: both quote what clients sent. Pure."""
    parts = {
        "reason": letter.reason,
        "type": letter.type,
        "event": letter.event,
        "messageId": letter.message_id,
        "table": letter.table,
    }
    return {name: value[:MOST_TEXT] for name, value in parts.items() if value}
