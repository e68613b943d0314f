"""Materialising: the client's bytes and what the server knows become one event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from shared.events.event import JSON, encode_event, facts_of, is_finer, materialise, micros, parse_time, read_micros, read_time
from shared.events.frame import Head, RequestContext

RECEIVED = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)


def request(**fields: Any) -> RequestContext:
    return RequestContext(received_at=micros(RECEIVED), protocol="segment", key="k", **fields)


def event(body: JSON, context: RequestContext, head: Head | None = None) -> JSON:
    return materialise(msgspec.json.encode(body), head or Head("m1", "track"), facts_of(context))


def test_ids_type_and_time_of_receipt_come_from_the_server() -> None:
    full = event({"messageId": "theirs", "type": "page", "a": 1}, request(), Head("ours", "track"))
    assert full == {
        "messageId": "ours",
        "type": "track",
        "a": 1,
        "context": {},
        "receivedAt": RECEIVED,
        "timestamp": RECEIVED,
    }


def test_the_clock_skew_of_the_client_is_taken_out() -> None:
    sent = RECEIVED - timedelta(hours=3)
    context = request(sent_at=sent.isoformat(), skew=3 * 3600 * 1_000_000)
    full = event({"timestamp": "2026-03-01T09:00:00Z"}, context)
    assert full["timestamp"] == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert full["originalTimestamp"] == datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert full["sentAt"] == sent


def test_a_time_that_is_none_stays_as_sent_and_the_receipt_counts() -> None:
    full = event({"timestamp": "yesterday"}, request())
    assert (full["timestamp"], full["originalTimestamp"]) == (RECEIVED, "yesterday")


@pytest.mark.parametrize(
    ("given", "call", "counts"),
    [
        ("2026-02-01T09:00:00Z", "2026-03-01T12:00:00Z", datetime(2026, 2, 1, 9, 0, 10, tzinfo=UTC)),
        ("2026-02-01T09:00:00Z", "yesterday", datetime(2026, 2, 1, 9, 0, 10, tzinfo=UTC)),
        ("yesterday", "2026-03-01T12:00:00Z", RECEIVED),
        ("yesterday", "tomorrow", RECEIVED),
    ],
)
def test_of_two_times_of_an_event_the_callers_counts_and_that_of_the_call_stays(given: str, call: str, counts: datetime) -> None:
    context = request(sent_at="2026-03-01T12:00:00Z", skew=10_000_000)
    full = event({"timestamp": given, "originalTimestamp": call}, context)
    assert full["timestamp"] == counts
    assert full["originalTimestamp"] == (read_time(call) or call)


def test_the_servers_ip_and_agent_win_for_browsers_and_not_for_backends() -> None:
    body = {"context": {"ip": "203.0.113.9", "userAgent": "theirs"}}
    seen = {"ip": "198.51.100.1", "user_agent": "ours"}
    assert event(body, request(kind="browser", **seen))["context"] == {"ip": "198.51.100.1", "userAgent": "ours"}
    assert event(body, request(kind="server", **seen))["context"] == {"ip": "203.0.113.9", "userAgent": "theirs"}
    assert event({}, request(kind="server", **seen))["context"] == {}


def test_batch_level_context_and_integrations_stand_under_the_events_own() -> None:
    defaults = msgspec.json.encode({"context": {"app": "shop", "ip": "1"}, "integrations": {"All": True, "A": False}})
    full = event({"context": {"app": "mine"}, "integrations": {"A": True}}, request(kind="server", defaults=defaults))
    assert full["context"] == {"app": "mine", "ip": "1"}
    assert full["integrations"] == {"All": True, "A": True}


def test_bookkeeping_of_the_sdks_is_left_out() -> None:
    assert "_metadata" not in event({"_metadata": {"nodeVersion": "20"}, "writeKey": "k"}, request())


@pytest.mark.parametrize("body", [b"[1]", b"{", b"", b"null", b'"x"', b"\xff"])
def test_a_body_that_is_no_object_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        materialise(body, Head("m", "track"), facts_of(request()))


def test_a_batchs_context_that_is_no_object_is_kept_as_its_value() -> None:
    assert event({}, request(defaults=b'{"context":"text"}'))["context"]["value"] == "text"


def test_a_context_that_is_no_object_is_kept_as_its_value() -> None:
    assert event({"context": "web"}, request())["context"] == {"value": "web"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00:00.123456+05:30", datetime(2026, 3, 1, 6, 30, 0, 123456, tzinfo=UTC)),
        ("2026-03-01 12:00:00", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01t12:00:00z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("not a time at all, no", None),
        (1700000000, None),
        (None, None),
    ],
)
def test_times_are_read_strictly(text: object, expected: datetime | None) -> None:
    assert parse_time(text) == expected


MARCH = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-03-01T12:00:00Z", MARCH),
        (" 2026-03-01T12:00:00.000Z\n", MARCH),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:00Z", MARCH),
        ("2026-03-01T14:00+02:00", MARCH),
        (1772366400, MARCH),
        (1772366400.0, MARCH),
        (1772366400000, MARCH),
        (1772366400000000, MARCH),
        (1772366400000000000, MARCH),
        ("1772366400000000789", MARCH),
        ("2026-03-01t12:00:00z", MARCH),
        ("2026-03-01T12:00z", MARCH),
        ("1772366400", MARCH),
        ("1772366400000", MARCH),
        ("1772366400.5", datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)),
        (0, None),
        (-1, None),
        (7, None),
        (1e300, None),
        (float("nan"), None),
        (10**400, None),
        (True, None),
        ([], None),
        ("", None),
        ("2026", None),
        ("20260301", None),
        ("2026-13-01", None),
        ("2026-03-01T25:00", None),
        ("0001-01-01T00:00+10:00", None),
        ("٠١٢٣٤٥٦٧٨٩", None),
        ("9" * 5000, None),
        (None, None),
    ],
)
def test_times_of_clients_are_read_in_the_forms_they_send(value: object, expected: datetime | None) -> None:
    assert read_time(value) == expected
    if isinstance(value, str):
        assert read_micros(value) == (None if expected is None else micros(expected))


@pytest.mark.parametrize("sent", [1772366400000, "1772366400000", "2026-03-01"])
def test_a_time_in_another_form_is_the_events_time(sent: object) -> None:
    full = event({"timestamp": sent}, request())
    assert full["timestamp"] == full["originalTimestamp"]
    assert (full["timestamp"].year, full["timestamp"].month) == (2026, 3)


def test_encoding_writes_times_as_rfc_3339() -> None:
    assert encode_event({"at": RECEIVED}) == b'{"at":"2026-03-01T12:00:10Z"}'


@pytest.mark.parametrize(
    ("value", "finer"),
    [
        ("2026-09-01T12:34:56.1234567", True),
        ("2026-09-01T12:34:56.123456", False),
        ("2026-09-01T12:34:56.1234560", False),
        ("2026-09-01T12:34:56,123456789Z", True),
        ("178825999612345678", True),
        ("178825999612345000", False),
        ("17882599961234567", False),
        (1788259996123456789, True),
        (1788259996123456000, False),
        (Decimal("1788259996.1234567"), True),
        (1788259996.5, False),
        (None, False),
    ],
)
def test_a_time_with_more_digits_than_microseconds_is_told(value: object, finer: bool) -> None:
    assert is_finer(value) is finer


def test_into_an_event_that_a_function_gave_nothing_of_its_request_is_merged() -> None:
    seen = request(
        ip="198.51.100.1", user_agent="ours", geo={"country": "LI"}, complete=True, skew=1, defaults=b'{"context":{"a":1}}'
    )
    body = {
        "messageId": "x",
        "writeKey": "kept",
        "context": {"locale": "en"},
        "timestamp": "2026-03-01T09:00:00Z",
        "sentAt": "soon",
    }
    full = event({**body, "receivedAt": "2026-03-01T12:00:10.5Z"}, seen)
    assert full == {
        "messageId": "m1",
        "type": "track",
        "writeKey": "kept",
        "context": {"locale": "en"},
        "timestamp": datetime(2026, 3, 1, 9, tzinfo=UTC),
        "sentAt": "soon",
        "receivedAt": datetime(2026, 3, 1, 12, 0, 10, 500_000, tzinfo=UTC),
    }
    assert event({"context": None}, seen) == {"messageId": "m1", "type": "track", "context": None, "receivedAt": RECEIVED}


def test_an_event_is_the_same_before_and_behind_a_function_that_changes_nothing() -> None:
    sent = {"event": "e", "timestamp": "2026-03-01T09:00:00.123456789Z", "originalTimestamp": "yesterday", "context": {"a": 1}}
    seen = request(ip="198.51.100.1", sent_at="2026-03-01T09:00:00Z", skew=5_000_000)
    before = event(sent, seen)
    assert materialise(encode_event(before), Head("m1", "track"), facts_of(request(complete=True))) == before
