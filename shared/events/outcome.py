"""The outcome of an event at a stage, as a value: it went on, it is dropped on purpose, it is tried again, or it is a dead
letter.

Reasons are closed lists, because they are labels of metrics and people search dead letters by them. Each entry says what it
means, and the documentation is generated from it. No event leaves the path without one of these reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DeadReason(StrEnum):
    """The reason of a dead letter; the value is stable and shown to people."""

    NOT_AN_OBJECT = "not_an_object"
    MALFORMED_JSON = "malformed_json"
    UNREADABLE_RECORD = "unreadable_record"
    MALFORMED_PARAMETER = "malformed_parameter"
    SCHEMA_VIOLATION = "schema_violation"
    MISSING_TYPE = "missing_type"
    UNKNOWN_TYPE = "unknown_type"
    MISSING_ID = "missing_id"
    WRONG_TYPE = "wrong_type"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    TOO_MANY_KEYS = "too_many_keys"
    TABLE_TEMPLATE_FAILED = "table_template_failed"
    TYPE_CONFLICT = "type_conflict"
    SCHEMA_STRICT = "schema_strict"
    MISSING_KEY = "missing_key"
    REJECTED_BY_DESTINATION = "rejected_by_destination"
    FRAME_UNREADABLE = "frame_unreadable"
    INTERNAL_ERROR = "internal_error"
    TEMPLATE_FAILED = "template_failed"
    GAVE_UP = "gave_up"
    FUNCTION_FAILED = "function_failed"
    FUNCTION_TIMEOUT = "function_timeout"
    FUNCTION_MEMORY = "function_memory"
    FUNCTION_RESULT = "function_result"
    TRACKING_PLAN = "tracking_plan"
    LOOKUP_MISSING = "lookup_missing"
    HYDRATION_FAILED = "hydration_failed"

    @property
    def meaning(self) -> str:
        """One sentence for people: what was wrong and where to look."""
        return _DEAD_MEANING[self]

    @property
    def advice(self) -> str:
        """One sentence for people: what to do, usually."""
        return _DEAD_ADVICE[self]


class DropReason(StrEnum):
    """The reason of a drop; counted, never stored."""

    DUPLICATE = "duplicate"
    FILTERED = "filtered"
    SITE_FILTERED = "site_filtered"
    TRACKING_PLAN = "tracking_plan"
    BOT = "bot"
    TABLE_TEMPLATE_EMPTY = "table_template_empty"
    INTEGRATIONS = "integrations"
    CONSENT = "consent"
    SAMPLED = "sampled"
    OTHER_SHARD = "other_shard"
    EXPIRED = "expired"
    REMOVED = "removed"
    TEMPLATE_EMPTY = "template_empty"
    FUNCTION = "function"
    FUNCTION_FAILED = "function_failed"
    UNSUPPORTED = "unsupported"
    UNIDENTIFIED = "unidentified"
    TOO_OLD = "too_old"
    FORGOTTEN = "forgotten"

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return _DROP_MEANING[self]


@dataclass(frozen=True, slots=True)
class Ok:
    """The destination has the event."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The event was not taken this time, and may be later.

    `after`: the least wait in seconds, if the destination gives one. `everyone`: the destination asks for a pause of all calls, not of
    this one alone. `denied`: the destination did not let the call in. If it lets no call in, a person must act; if it lets others in,
    the event is at fault, and becomes a dead letter at its third refusal.
    """

    reason: str
    after: float | None = None
    everyone: bool = False
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Drop:
    """The event ends here on purpose."""

    reason: DropReason


@dataclass(frozen=True, slots=True)
class Dead:
    """The event cannot be processed; `detail` says what was expected and what was found."""

    reason: DeadReason
    detail: str


Outcome = Ok | Drop | Retry | Dead


_DEAD_MEANING = {
    DeadReason.NOT_AN_OBJECT: "an item of the batch is not a JSON object",
    DeadReason.MALFORMED_JSON: "the bytes are not JSON, even leniently read",
    DeadReason.UNREADABLE_RECORD: "the feed's `format` or schema does not fit the bytes of the record, or a connector cannot read a row of a file; the detail has the place and the fault",
    DeadReason.MALFORMED_PARAMETER: "a parameter of a Snowplow event cannot be read as base64, JSON or self-describing JSON; the detail names it",
    DeadReason.SCHEMA_VIOLATION: "the data of a Snowplow event, or of one of its entities, do not fit their schema, and the site's on_invalid is dead_letter; the detail has the place",
    DeadReason.MISSING_TYPE: "the event has no `type` and the path does not fix one",
    DeadReason.UNKNOWN_TYPE: "the `type` is not one the protocol knows",
    DeadReason.MISSING_ID: "the event lacks an id that its type needs (`userId` or `anonymousId`, `groupId`, `previousId`, `event`)",
    DeadReason.WRONG_TYPE: "a field of the event has a type the protocol does not allow",
    DeadReason.TOO_LARGE: "the event is larger than the limit of the site, or of a destination that takes events",
    DeadReason.TOO_DEEP: "the event nests deeper than the site's limit",
    DeadReason.TOO_MANY_KEYS: "the event has more keys than the site's limit",
    DeadReason.TABLE_TEMPLATE_FAILED: "the connection's table template raised an error for this event",
    DeadReason.TYPE_CONFLICT: "a value does not fit its column and the connection's on_conflict is dead_letter",
    DeadReason.SCHEMA_STRICT: "the event needs a new table or column and the connection's schema_policy does not allow it",
    DeadReason.MISSING_KEY: "the row has no value in a column of its primary key, so it could not be told from others",
    DeadReason.REJECTED_BY_DESTINATION: "the destination refused the row or the event; the detail has its words",
    DeadReason.FRAME_UNREADABLE: "the frame that held the events cannot be decoded by this version",
    DeadReason.INTERNAL_ERROR: "Penstock's own code failed on the event; the detail has the error. Report it, and replay after the upgrade",
    DeadReason.TEMPLATE_FAILED: "a template of the destination (url, headers or body) raised an error for this event, or gave a text that cannot be sent",
    DeadReason.GAVE_UP: "the destination failed on the event for longer than its max_age; the detail has the last failure",
    DeadReason.FUNCTION_FAILED: "a function threw, and the connection's on_error is dead_letter, or it threw NoRetryError; the detail has the function and its words",
    DeadReason.FUNCTION_TIMEOUT: "a function ran for longer than the connection's function_timeout, or waited for longer than an event may take",
    DeadReason.FUNCTION_MEMORY: "a function took more memory than it has, or its process ended while it worked on this event",
    DeadReason.FUNCTION_RESULT: "a function returned no event: not JSON, too large, or too many events",
    DeadReason.TRACKING_PLAN: "the event breaks the site's tracking plan, which sends such events here; the detail has every fault",
    DeadReason.LOOKUP_MISSING: "a lookup of the connection has no row for the event's key, and its `missing` is dead_letter; the detail has table and key, or no key where privacy rules run",
    DeadReason.HYDRATION_FAILED: "what a webhook's delivery names could not be fetched in all tries, or its address gave no use, and the webhook's `hydrate` says dead_letter; the detail has the answer",
}

_MEND_CLIENT = "a client is wrong: mend it; replay what the new rules allow"
_DEAD_ADVICE = {
    DeadReason.NOT_AN_OBJECT: _MEND_CLIENT,
    DeadReason.MALFORMED_JSON: _MEND_CLIENT,
    DeadReason.UNREADABLE_RECORD: "of a feed: set its `format`, or mend the schema or the writer; replay. Of a sync: mend the file or the options of its stream, and the next run reads it",
    DeadReason.MALFORMED_PARAMETER: _MEND_CLIENT,
    DeadReason.SCHEMA_VIOLATION: "mend the client, or add a version of the schema to the folder and apply the project; then replay",
    DeadReason.MISSING_TYPE: _MEND_CLIENT,
    DeadReason.UNKNOWN_TYPE: _MEND_CLIENT,
    DeadReason.MISSING_ID: _MEND_CLIENT,
    DeadReason.WRONG_TYPE: _MEND_CLIENT,
    DeadReason.TOO_LARGE: "raise the site's `limits`, or mend the client; then replay",
    DeadReason.TOO_DEEP: "raise the site's `limits`, or mend the client; then replay",
    DeadReason.TOO_MANY_KEYS: "raise the site's `limits`, or mend the client; then replay",
    DeadReason.TABLE_TEMPLATE_FAILED: "mend the template; then replay",
    DeadReason.TYPE_CONFLICT: "change `on_conflict` or `schema_policy`, or the table; then replay",
    DeadReason.SCHEMA_STRICT: "change `on_conflict` or `schema_policy`, or the table; then replay",
    DeadReason.MISSING_KEY: "change `primary_key`, or `deduplicate: false`; then replay",
    DeadReason.REJECTED_BY_DESTINATION: "the detail has the database's words: a constraint, a trigger, a value out of range; change it or the event, then replay",
    DeadReason.FRAME_UNREADABLE: "a newer Penstock wrote it: upgrade this service, then replay",
    DeadReason.INTERNAL_ERROR: "a defect of Penstock: report it with the detail, upgrade, then replay",
    DeadReason.TEMPLATE_FAILED: "a template of the destination fails on this event: mend it, apply, then replay",
    DeadReason.GAVE_UP: "the destination failed on the event for longer than its `max_age`; the detail has the last failure: mend the destination, then replay",
    DeadReason.FUNCTION_FAILED: "the detail has the function and what it threw: mend it, apply, then replay",
    DeadReason.FUNCTION_TIMEOUT: "the function hangs on this event: mend it, or raise the connection's `function_timeout`; then replay",
    DeadReason.FUNCTION_MEMORY: "the function takes too much memory for this event: mend it, then replay",
    DeadReason.FUNCTION_RESULT: "the function's result is no event; the detail says why: mend it, then replay",
    DeadReason.TRACKING_PLAN: "mend the client, or the plan and apply it; then replay: the present plan and the connection's rules judge the event again",
    DeadReason.LOOKUP_MISSING: "add the row to the table, or mend the client; replay when the table is read again",
    DeadReason.HYDRATION_FAILED: "the detail has the answer: mend the token, the address or the bounds of the webhook's `hydrate`, apply, then replay: it asks again",
}

_DROP_MEANING = {
    DropReason.DUPLICATE: "the same messageId was accepted before, within the site's window",
    DropReason.FILTERED: "the connection's `where` does not match",
    DropReason.SITE_FILTERED: "the site's `where` does not match, so no connection gets the event",
    DropReason.TRACKING_PLAN: "the event breaks the site's tracking plan, which drops such events",
    DropReason.BOT: "the site drops requests of bots",
    DropReason.TABLE_TEMPLATE_EMPTY: "the connection's table template gave an empty name, which skips the event",
    DropReason.INTEGRATIONS: "the event's `integrations` object excludes the destination",
    DropReason.CONSENT: "the event's consent does not cover the destination",
    DropReason.SAMPLED: "the connection's sampling left the user out",
    DropReason.OTHER_SHARD: "the event's user belongs to another shard of the connection, which delivers it",
    DropReason.EXPIRED: "the connection's queue was full for longer than EVENTS keeps",
    DropReason.REMOVED: "the connection was removed, or moved to another site, before it had got the event",
    DropReason.TEMPLATE_EMPTY: "the destination's body template gave an empty text, which skips the event",
    DropReason.FUNCTION: "a function of the connection returned null, false, an empty list or `drop`",
    DropReason.FUNCTION_FAILED: "a function threw, and the connection's on_error is drop",
    DropReason.UNSUPPORTED: "the destination has no place for an event of this type or name; its page says which it takes",
    DropReason.UNIDENTIFIED: "the event has none of the ids by which the destination knows people; its page names them",
    DropReason.TOO_OLD: "the event is older than the destination accepts; its page says how old it may be",
    DropReason.FORGOTTEN: "the event belongs to a person who is forgotten (`penstock forget`) or suppressed (`penstock suppress`)",
}
