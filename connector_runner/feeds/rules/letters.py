"""Records that became dead letters: kept with their original bytes and all that the source said, so that they can be shaped again. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from connector_runner.feeds.contract import FeedRules, Record
from connector_runner.feeds.rules.shape import Shaper
from shared.errors import UNREADABLE
from shared.events.dead import DeadLetter
from shared.events.frame import Head, RequestContext
from shared.events.outcome import Dead, DeadReason
from shared.project.model import SiteLimits

STAGE = "feeds"
"""The stage of such letters in DEAD; the name beside it is the site's."""

MAX_BODY_BYTES = 1024 * 1024
"""A larger record is cut."""


class _Form(msgspec.Struct, frozen=True, omit_defaults=True):
    """A record without its value."""

    topic: str
    partition: int | str
    offset: int | str
    key: bytes | None = None
    headers: list[tuple[str, bytes]] = []
    timestamp_ms: int | None = None
    null: bool = False


_decode_form = msgspec.json.Decoder(_Form).decode


def letter_of(record: Record, dead: Dead, site: str, position: str, request: RequestContext, at: float, most: int) -> DeadLetter:
    """Returns the dead letter of a record.

    Args:
        position: its messageId.
        at: epoch seconds.
        most: bytes of its value that are kept, at most.
    """
    form = _Form(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        headers=list(record.headers),
        timestamp_ms=record.timestamp_ms,
        null=record.value is None,
    )
    return DeadLetter(
        stage=STAGE,
        site=site,
        reason=dead.reason,
        detail=f"{record.topic}, partition {record.partition}, offset {record.offset}: {dead.detail}",
        body=(record.value or b"")[: min(most, MAX_BODY_BYTES)],
        at=at,
        origin=position,
        message_id=position,
        request=request,
        form=msgspec.json.encode(form).decode(),
    )


def shape_again(letter: DeadLetter, rules: FeedRules, limits: SiteLimits, largest: int) -> tuple[Head, bytes] | Dead:
    """Returns head and body of a letter's record by the present rules of its feed, or why it has none.

    A value that the plug-in could not read (Avro without its schema) is taken as it is.
    """
    try:
        form: Any = _decode_form(letter.form)
    except UNREADABLE as exc:
        return Dead(DeadReason.UNREADABLE_RECORD, f"the letter does not say which record it was: {exc}")
    record = Record(
        topic=form.topic,
        partition=form.partition,
        offset=form.offset,
        value=None if form.null else letter.body,
        key=form.key,
        headers=form.headers,
        timestamp_ms=form.timestamp_ms,
    )
    name = letter.request.key if letter.request else ""
    return Shaper(name, rules, limits, largest).shape(record)
