"""What services say of a part of a call, in their own words, and what becomes of each event; calls that follow from an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from loader.cloud.google_ads import TokenCall
from loader.contract.events import Call, HTTPDestination, Response
from shared.events.outcome import Dead, Ok, Outcome, Retry
from tests.contract.events.test_calls import AT, full, opened
from tests.support.services import SERVICES, event


def sent(type_name: str, count: int, **more: Any) -> tuple[HTTPDestination, Call]:
    """Returns a destination and its first call with so many tracks of as many users."""
    destination = opened(type_name)
    tracks = [
        event(number, SERVICES[type_name], count) | {"type": "track", "event": "Song Played"} | more for number in range(count)
    ]
    return destination, destination.calls([full(each, AT) for each in tracks], AT).calls[0]


def answered(type_name: str, count: int, status: int, body: object, headers: dict[str, str] | None = None) -> list[Outcome]:
    destination, call = sent(type_name, count)
    outcomes = destination.answer(call, Response(status, headers or {}, json.dumps(body).encode(), AT))
    assert not isinstance(outcomes, Call)
    return list(outcomes)


def kinds(outcomes: list[Outcome]) -> str:
    """Returns a letter for each outcome."""
    return "".join(type(outcome).__name__[0] for outcome in outcomes)


@pytest.mark.parametrize(
    ("type_name", "status", "body"),
    [
        ("mixpanel", 400, {"failed_records": [{"index": 1, "field": "time", "message": "too old"}]}),
        ("braze", 201, {"message": "success", "errors": [{"type": "too old", "input_array": "events", "index": 1}]}),
        ("customerio", 207, {"errors": [{"batch_index": 1, "field": "name", "message": "too old"}]}),
        ("iterable", 200, {"failedUpdates": {"notFoundUserIds": ["u1"], "too old": ["u1"]}}),
    ],
)
def test_what_was_refused_of_a_call_is_a_letter_with_the_services_words_and_the_rest_arrived(
    type_name: str, status: int, body: object
) -> None:
    outcomes = answered(type_name, 3, status, body)
    assert kinds(outcomes) == "ODO"
    assert isinstance(outcomes[1], Dead)
    assert "too old" in outcomes[1].detail


PARTIAL: dict[str, tuple[int, Callable[[list[Any]], dict[str, Any]]]] = {
    "mixpanel": (400, lambda named: {"failed_records": [{"index": each, "field": "time", "message": "odd"} for each in named]}),
    "braze": (201, lambda named: {"errors": [{"type": "odd", "index": each} for each in named]}),
    "customerio": (207, lambda named: {"errors": [{"batch_index": each, "field": "name", "message": "odd"} for each in named]}),
    "google_ads": (
        200,
        lambda named: {
            "partialFailureError": {
                "message": "odd",
                "details": [
                    {
                        "errors": [
                            {"message": "odd", "location": {"fieldPathElements": [{"fieldName": "conversions", "index": each}]}}
                            for each in named
                        ]
                    }
                ],
            }
        },
    ),
}


@pytest.mark.parametrize("type_name", sorted(PARTIAL))
@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ([1], "ODO"),
        ([1, 1], "ODO"),
        (["1"], "ODO"),
        ([0, 2], "DOD"),
        ([3], "DDD"),
        ([-1], "DDD"),
        ([None], "DDD"),
        ([True], "DDD"),
        ([[1]], "DDD"),
        (["x"], "DDD"),
        ([1, 99], "DDD"),
    ],
)
def test_an_error_that_names_no_event_of_the_call_refuses_all_so_that_halves_find_it(
    type_name: str, named: list[Any], expected: str
) -> None:
    status, body = PARTIAL[type_name]
    destination, call = sent(type_name, 3, event="Order Completed" if type_name == "google_ads" else "Song Played")
    call = getattr(call, "then", call)
    outcomes = destination.answer(call, Response(status, {}, json.dumps(body(named)).encode(), AT))
    assert not isinstance(outcomes, Call)
    assert kinds(list(outcomes)) == expected
    assert all("odd" in each.detail for each in outcomes if isinstance(each, Dead))


@pytest.mark.parametrize(
    ("type_name", "status", "body"),
    [
        ("hubspot", 207, {"errors": [{"message": "odd", "context": {"ids": ["somebody@example.com"]}}]}),
        ("hubspot", 207, {"errors": [{"message": "odd"}]}),
        ("iterable", 200, {"successCount": 1, "failCount": 2}),
    ],
)
def test_a_service_that_names_records_by_id_and_names_none_of_the_call_refuses_all(
    type_name: str, status: int, body: object
) -> None:
    destination = opened(type_name)
    identify = [
        full({"messageId": f"m{n}", "type": "identify", "userId": f"u{n}", "traits": {"email": f"u{n}@x.test"}}, AT)
        for n in range(3)
    ]
    (call,) = destination.calls(identify, AT).calls
    outcomes = destination.answer(call, Response(status, {}, json.dumps(body).encode(), AT))
    assert not isinstance(outcomes, Call)
    assert kinds(list(outcomes)) == "DDD"


def test_the_token_of_google_stands_in_no_letter() -> None:
    destination, first = sent("google_ads", 1, event="Order Completed")
    upload = destination.answer(first, Response(200, {}, b'{"access_token":"ya29.secret"}', AT))
    assert isinstance(upload, Call)
    (dead,) = destination.answer(upload, Response(400, {}, b"odd header Bearer ya29.secret", AT))  # type: ignore[misc]
    assert isinstance(dead, Dead)
    assert "ya29" not in dead.detail


@pytest.mark.parametrize(
    ("type_name", "status", "body", "everyone", "after"),
    [
        ("amplitude", 429, {"code": 429, "throttled_users": {"u1": 40}}, False, 30.0),
        ("amplitude", 429, {"code": 429, "exceeded_daily_quota_users": {"u1": 500_200}}, False, 30.0),
        ("amplitude", 429, {"code": 429, "error": "Too many requests"}, True, 30.0),
        ("posthog", 200, {"status": 1, "quota_limited": ["events"]}, True, 900.0),
        ("meta_conversions", 400, {"error": {"code": 17}}, True, None),
        ("meta_conversions", 400, {"error": {"code": 100, "is_transient": True}}, False, None),
        ("tiktok", 200, {"code": 50_002, "message": "busy"}, False, None),
    ],
)
def test_limits_and_tokens_are_told_from_wrong_events(
    type_name: str, status: int, body: object, everyone: bool, after: float | None
) -> None:
    for outcome in answered(type_name, 2, status, body):
        assert isinstance(outcome, Retry)
        assert (outcome.everyone, outcome.after) == (everyone, after)


@pytest.mark.parametrize(
    ("type_name", "status", "body"),
    [
        ("meta_conversions", 400, {"error": {"code": 190}}),
        ("tiktok", 200, {"code": 40_105, "message": "token"}),
        ("amplitude", 400, {"code": 400, "error": "Invalid API key: x"}),
        ("kinesis", 400, {"__type": "com.amazonaws#AccessDeniedException"}),
        ("slack", 404, "no_service"),
        ("klaviyo", 403, {}),
    ],
)
def test_a_refused_credential_is_told_from_a_wrong_event(type_name: str, status: int, body: object) -> None:
    for outcome in answered(type_name, 2, status, body):
        assert isinstance(outcome, Retry)
        assert outcome.denied


def test_a_contact_of_intercom_that_exists_is_changed_by_its_id() -> None:
    destination, _ = sent("intercom", 1)
    identify = full({"messageId": "m", "type": "identify", "userId": "u", "traits": {"name": "Ann"}}, AT)
    (call,) = destination.calls([identify], AT).calls
    words = "A contact matching those details already exists with id=5da6f1"
    conflict = Response(409, {}, json.dumps({"errors": [{"code": "conflict", "message": words}]}).encode(), AT)
    following = destination.answer(call, conflict)
    assert isinstance(following, Call)
    assert (following.method, following.url, following.body) == ("PUT", call.url + "/5da6f1", call.body)
    assert destination.answer(following, Response(200, {}, b"{}", AT)) == [Ok()]
    archived = Response(409, {}, json.dumps({"errors": [{"message": "An archived " + words[2:]}]}).encode(), AT)
    assert isinstance(destination.answer(call, archived)[0], Dead)  # type: ignore[index]


def test_google_ads_gets_a_token_first_and_a_new_one_when_it_is_too_old() -> None:
    destination, first = sent("google_ads", 2, event="Order Completed")
    assert isinstance(first, TokenCall)
    assert "Authorization" not in first.headers
    upload = destination.answer(first, Response(200, {}, b'{"access_token":"t1"}', AT))
    assert isinstance(upload, Call)
    assert upload.headers["Authorization"] == "Bearer t1"
    assert destination.answer(upload, Response(200, {}, b'{"results":[{},{}]}', AT)) == [Ok(), Ok()]
    _, second = (
        destination,
        destination.calls([full(event(1, SERVICES["google_ads"]) | {"type": "track", "event": "Order Completed"}, AT)], AT).calls[
            0
        ],
    )
    assert second.headers["Authorization"] == "Bearer t1"
    again = destination.answer(second, Response(401, {}, b"", AT))
    assert isinstance(again, TokenCall)
    fresh = destination.answer(again, Response(200, {}, b'{"access_token":"t2"}', AT))
    assert isinstance(fresh, Call)
    (held,) = destination.answer(fresh, Response(401, {}, b"", AT))  # type: ignore[misc]
    assert isinstance(held, Retry)
    assert held.denied, "a token that was just given and is refused is no event's fault"
    (none,) = destination.answer(again, Response(404, {}, b"", AT))  # type: ignore[misc]
    assert isinstance(none, Retry)


def refused_by_google(kind: str, code: str) -> list[Outcome]:
    """Returns the outcomes of three conversions of which Google refuses the second."""
    destination, first = sent("google_ads", 3, event="Order Completed")
    assert isinstance(first, TokenCall)
    error = {
        "errorCode": {kind: code},
        "message": "Words.",
        "location": {"fieldPathElements": [{"fieldName": "conversions", "index": 1}]},
    }
    body = {"partialFailureError": {"message": "some failed", "details": [{"errors": [error]}]}}
    outcomes = destination.answer(first.then, Response(200, {}, json.dumps(body).encode(), AT))
    assert not isinstance(outcomes, Call)
    return list(outcomes)


@pytest.mark.parametrize(
    ("code", "kind"), [("UNPARSEABLE_GCLID", "D"), ("CLICK_CONVERSION_ALREADY_EXISTS", "O"), ("TOO_RECENT_CLICK", "R")]
)
def test_conversions_that_google_names_are_refused_there_already_or_too_early(code: str, kind: str) -> None:
    assert kinds(refused_by_google("conversionUploadError", code)) == f"O{kind}O"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("notAllowlistedError", "CUSTOMER_NOT_ALLOWLISTED_FOR_THIS_FEATURE"),
        ("conversionUploadError", "CUSTOMER_NOT_ACCEPTED_CUSTOMER_DATA_TERMS"),
        ("authorizationError", "USER_PERMISSION_DENIED"),
    ],
)
def test_an_account_that_may_not_upload_is_no_conversions_fault(kind: str, code: str) -> None:
    _, held, _ = refused_by_google(kind, code)
    assert isinstance(held, Retry)
    assert held.denied
    assert code in held.reason


def test_a_trait_whose_name_google_keeps_for_itself_gets_another_one() -> None:
    _, call = sent("ga4", 1, context={"traits": {"userId": "u", "user_id": "v", "plan": "p"}})
    said = {name: value["value"] for name, value in json.loads(call.body)["user_properties"].items()}
    assert said == {"userId": "u", "n_user_id": "v", "plan": "p"}
