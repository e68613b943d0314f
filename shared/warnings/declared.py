"""The warnings there are: each is made of a counter, and says what it means and what to do. `docs/reasons.md` is made from here.

A counter that gets a warning has a label `site`, `connection` or `feed`, so that people know where to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from shared.telemetry.names import CounterName

ANY: Mapping[str, str] = MappingProxyType({})


class Warned(NamedTuple):
    """A warning.

    `reason` is its stable name. The counter must have the `labels` for it. `shown` is a label whose value is a sample, as
    long as the code gave no better one.
    """

    reason: str
    counter: CounterName
    unit: str
    meaning: str
    advice: str
    labels: Mapping[str, str] = ANY
    shown: str = ""


def _changed(reason: str, meaning: str, advice: str) -> Warned:
    return Warned(reason, "loader_values_changed_total", "values", meaning=meaning, advice=advice, labels={"reason": reason})


def _ignored(reason: str, meaning: str, advice: str) -> Warned:
    return Warned(reason, "ingest_members_ignored_total", "members", meaning=meaning, advice=advice, labels={"reason": reason})


WARNED: tuple[Warned, ...] = (
    Warned(
        "schema_unknown",
        "ingest_schemas_unknown_total",
        "schemas",
        meaning="self-describing data name a schema that the site's folder does not have; they are accepted unchecked",
        advice="add the schema to the folder (`snowplow.schemas`) and apply the project, or mend the name in the tracker",
    ),
    Warned(
        "schema_violated",
        "ingest_schemas_violated_total",
        "schemas",
        meaning="self-describing data do not fit their schema; they are accepted as they are",
        advice="mend the tracker, or `on_invalid: dead_letter` keeps such events out of the tables",
    ),
    Warned(
        "message_id_missing",
        "ingest_ids_made_total",
        "events",
        meaning="the event came without a `messageId`, so the edge made one; the same event sent again is another event",
        advice="let the client send a `messageId`, or an `Idempotency-Key` with the request; SDKs do. A webhook needs `message_id` or `content_id`",
    ),
    Warned(
        "json_repaired",
        "ingest_events_repaired_total",
        "events",
        meaning="the bytes were not JSON, or not UTF-8, and were read leniently and written again",
        advice="find the client by its site and mend how it writes JSON: text is escaped by a library, never by hand",
    ),
    Warned(
        "clock_skew_ignored",
        "ingest_skew_ignored_total",
        "requests",
        meaning="`sentAt` is no time, or the client's clock is further off than the site's `max_clock_skew`; times stay as sent",
        advice="set the clock of the machine; for many browsers raise `max_clock_skew`, or set it to 0 if times are right as sent",
    ),
    _ignored(
        "unknown_batch_member",
        "a batch has a key that Penstock does not know; it is ignored",
        "compare the client's spelling with docs/protocols/segment.md; keys of one event belong into the event",
    ),
    _ignored(
        "context_not_an_object", "`context` of a batch is no object; it is ignored", "mend the client: `context` is an object"
    ),
    _ignored(
        "integrations_not_an_object",
        "`integrations` of a batch is no object; it is ignored",
        "mend the client: `integrations` is an object of names to true, false or options",
    ),
    Warned(
        "keys_disagree",
        "ingest_key_disagreements_total",
        "requests",
        meaning="a request carries two different write keys; the one in the header won",
        advice="let the client send one key, in one place",
    ),
    Warned(
        "agent_not_parsed",
        "ingest_agents_unparsed_total",
        "requests",
        meaning="too many unknown user agents came at once, so this one was not parsed; its text is kept",
        advice="nothing, if it passes; else look who sends made-up user agents",
    ),
    Warned(
        "text_cut",
        "ingest_texts_cut_total",
        "texts",
        meaning="a user agent, or the body of a dead letter, was longer than its bound; the rest is gone",
        advice="mend the client; nothing, if it is a robot",
        shown="reason",
    ),
    Warned(
        "request_refused",
        "ingest_requests_refused_total",
        "requests",
        meaning="a request was refused whole, with the code of the sample; no event of it is anywhere",
        advice="docs/protocols/ says what the code means; the client must send the request again, correctly",
        shown="code",
    ),
    Warned(
        "bot",
        "ingest_events_dropped_total",
        "events",
        meaning="a known bot sent the event, and the site drops requests of bots",
        advice="nothing, if that is meant; `bots: keep` keeps them",
        labels={"reason": "bot"},
    ),
    Warned(
        "plan_violation",
        "router_plan_broken_total",
        "events",
        meaning="the event breaks the site's tracking plan; the plan says what became of it",
        advice="look at `from: violations` or the dead letters, then mend the client or the plan (docs/tracking_plans.md)",
    ),
    Warned(
        "duplicate",
        "router_events_dropped_total",
        "events",
        meaning="the messageId came before within the site's `dedupe_window`; the event was left out",
        advice="nothing, if clients try again after a timeout; many of them mean a client that reuses ids for different events",
        labels={"reason": "duplicate"},
    ),
    Warned(
        "window_shortened",
        "router_dedupe_shortened_total",
        "times",
        meaning="the window of message ids is full and forgets early; repeats may be delivered",
        advice="raise PENSTOCK_ROUTER_DEDUPE_MAX_IDS, or make the site's `dedupe_window` shorter",
    ),
    Warned(
        "condition_failed",
        "router_filter_errors_total",
        "events",
        meaning="the event could not be read far enough for `where`, so it was left out",
        advice="look at the site's events with `penstock tail SITE`, and at the connection's `where`",
    ),
    Warned(
        "expired",
        "router_events_dropped_total",
        "events",
        meaning="the connection's queue was full for longer than EVENTS keeps; the events are lost to it",
        advice="let the destination take more, or raise PENSTOCK_EVENTS_MAX_AGE and PENSTOCK_EVENTS_MAX_BYTES",
        labels={"reason": "expired"},
    ),
    Warned(
        "value_unmapped",
        "loader_values_unmapped_total",
        "values",
        meaning="the value fits no column of its table, or the table has no room for another column; it is kept in `_unmapped_data`",
        advice="see it in `_unmapped_data`; change the column, `on_conflict` (widen, variant), `max_columns` or `max_new_columns`",
    ),
    Warned(
        "too_many_tables",
        "loader_rows_overflow_total",
        "rows",
        meaning="the connection loads `max_tables` tables already, so the row is in `overflow_table`",
        advice="give events few names and put the rest into properties, or raise `max_tables`, or set `table`",
    ),
    _changed("numbers_not_finite", "a number is infinite or none (NaN, 1e999); it became null", "mend the client"),
    _changed(
        "nul_characters_replaced",
        "a text has a NUL character, which became U+FFFD",
        "mend the client, or let a function clean it",
    ),
    _changed(
        "half_surrogates_replaced",
        "a text has half of a character, which became U+FFFD",
        "mend the client: it cuts texts inside a character",
    ),
    _changed(
        "times_cut_to_microseconds",
        "a time has more digits than microseconds; the rest is gone",
        "send such times as text or as numbers as well",
    ),
    _changed(
        "type_hints_ignored", "a type hint of a function names no type", "mend the function: docs/functions.md has the types"
    ),
    _changed(
        "hints_left_out",
        "an event has keys that look like type hints, but no function wrote them; they are left out",
        "rename the keys at the client",
    ),
    Warned(
        "unsupported",
        "loader_events_dropped_total",
        "events",
        meaning="the destination has no place for an event of this type or name",
        advice="leave such events out with `where`, or map them: the destination's page says how",
        labels={"reason": "unsupported"},
    ),
    Warned(
        "unidentified",
        "loader_events_dropped_total",
        "events",
        meaning="the event has none of the ids by which the destination knows people",
        advice="send `userId`, or what the destination's page names",
        labels={"reason": "unidentified"},
    ),
    Warned(
        "too_old",
        "loader_events_dropped_total",
        "events",
        meaning="the event is older than the destination accepts",
        advice="nothing, after an outage; else the client's clock is wrong",
        labels={"reason": "too_old"},
    ),
    Warned(
        "function_error",
        "functions_errors_total",
        "errors",
        meaning="a function threw; `on_error` says what became of the event",
        advice="`penstock tail --functions` shows what it says; mend it, and try it with `penstock fn run`",
        shown="function",
    ),
    Warned(
        "privacy_rule_missed",
        "functions_rules_missed_total",
        "rules",
        meaning="a privacy rule found nothing in an event",
        advice="nothing, if only some events have the field; else compare the rule's `field` with the events",
    ),
    Warned(
        "record_lost",
        "feeds_records_lost_total",
        "records",
        meaning="a record of a plain subject came faster than it was read, and is gone",
        advice="follow a stream of JetStream instead of a plain subject",
        shown="reason",
    ),
)

BY_REASON: Mapping[str, Warned] = MappingProxyType({each.reason: each for each in WARNED})
