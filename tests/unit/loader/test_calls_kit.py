"""The kit of services: hashes with the vendors' own examples, ids, fields, and batches that keep the order of each user."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import NAMESPACE_OID, uuid5

import pytest

from loader.calls import fields, moments, personal
from loader.calls.batches import Batch, Piece, array, batched
from loader.calls.verdicts import verdict
from loader.contract.events import Call, Response
from shared.events.outcome import Drop, DropReason, Retry


def test_personal_data_is_hashed_as_in_the_examples_of_meta() -> None:
    # developers.facebook.com/docs/marketing-api/conversions-api/parameters/customer-information-parameters
    assert personal.email(" John_Smith@gmail.com") == "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f"
    assert personal.phone("1 (650)555-1212", plus=False) == "e323ec626319ca94ee8bff2e4c87cf613be6ea19919ed1364124e16807ab3176"
    assert personal.postal_code("94025-1234") == personal.word("94025")
    assert personal.postal_code("SW1A 1AA") == personal.word("sw1a1aa")
    assert personal.word("Mary") == "6915771be1c5aa0c886870b6951b03d7eafc121fea0e80a5ea83beb7c449f4ec"
    assert personal.word("정") == "8fa8cd9c440be61d0151429310034083132b35975c4bea67fdd74158eb51db14"


def test_what_is_hashed_already_stays_and_what_is_none_is_left_out() -> None:
    done = personal.hashed("x")
    assert personal.email(done.upper()) == personal.phone(done, plus=True) == personal.word(done) == done
    assert personal.email("nobody") == personal.phone("none", plus=True) == personal.word({}) == personal.email(None) == ""


def test_an_id_becomes_a_uuid_or_a_ulid_always_the_same() -> None:
    assert fields.as_uuid("0B2D7C3E-1F1A-4C55-9D0E-6A1B2C3D4E5F") == "0b2d7c3e-1f1a-4c55-9d0e-6a1b2c3d4e5f"
    assert fields.as_uuid("order 1") == str(uuid5(NAMESPACE_OID, "order 1"))
    moment = datetime(2016, 7, 30, 23, 54, 10, 259_000, UTC)
    made = moments.as_ulid(moment, "order 1")
    assert made == moments.as_ulid(moment, "order 1") != moments.as_ulid(moment, "order 2")
    assert made[:10] == "01ARZ3NDEK"  # of the example at github.com/ulid/spec
    assert len(made) == 26


@pytest.mark.parametrize(
    ("value", "number"),
    [("12", 12), (" -1.5 ", -1.5), (Decimal("0.1"), Decimal("0.1")), (True, None), ("1e5", None), ("", None), ([], None)],
)
def test_prices_that_came_as_text_are_numbers(value: object, number: object) -> None:
    assert fields.number(value) == number


def make(event: dict[str, object]) -> Piece | Drop:
    if event.get("skip"):
        return Drop(DropReason.UNSUPPORTED)
    return Piece(
        str(event["to"]), str(event["n"]).encode(), once=str(event.get("once", "")), weight=int(str(event.get("weight", 1)))
    )


def wrap(target: str, pieces: object, places: object) -> Call:
    return Call("POST", target, {}, array(pieces), places)  # type: ignore[arg-type]


def planned(*events: tuple[str, str], batch: Batch | None = None, **more: object) -> list[tuple[str, list[int]]]:
    made = batched(
        [{"userId": user, "to": to, "n": n, **more} for n, (user, to) in enumerate(events)], make, wrap, batch or Batch(events=3)
    )
    return [(call.url, list(call.events)) for call in made.calls]


def test_events_of_other_users_may_pass_each_other_but_never_those_of_one() -> None:
    assert planned(("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")) == [("x", [0, 2]), ("y", [1, 3])]
    assert planned(("a", "x"), ("a", "y"), ("a", "x")) == [("x", [0]), ("y", [1]), ("x", [2])]
    assert planned(("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("a", "x"), ("b", "y")) == [
        ("x", [0, 2]),
        ("y", [1, 3, 5]),
        ("x", [4]),
    ]


def test_a_batch_ends_by_number_weight_bytes_and_a_record_that_came_before() -> None:
    users = [(str(n), "x") for n in range(7)]
    assert [events for _, events in planned(*users)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [events for _, events in planned(*users, weight=2)] == [[n] for n in range(7)]
    assert [events for _, events in planned(*users, batch=Batch(events=9, bytes=14, around=10))] == [[0, 1], [2, 3], [4, 5], [6]]
    assert [events for _, events in planned(*users[:3], once="r")] == [[0], [1], [2]]


def test_a_refused_credential_is_told_from_a_wrong_event_and_a_reset_says_for_how_long() -> None:
    assert verdict(Response(403, {}, b"no", 0.0)) == Retry(
        "answered 403: no; check the credentials and settings of the destination", denied=True
    )
    limited = verdict(Response(429, {"x-ratelimit-reset": "130"}, b"", 100.0), reset="x-ratelimit-reset")
    assert isinstance(limited, Retry)
    assert (limited.after, limited.everyone) == (30.0, True)


@pytest.mark.parametrize(
    ("event", "traits"),
    [
        ({"type": "identify", "context": {"traits": {"email": "a@x"}}}, {"email": "a@x"}),
        ({"type": "identify", "traits": {}, "context": {"traits": {"email": "a@x"}}}, {"email": "a@x"}),
        ({"type": "identify", "traits": {"plan": "pro"}, "context": {"traits": {"email": "a@x"}}}, {"plan": "pro"}),
        ({"type": "identify", "context": {"traits": "none"}}, {}),
        ({"type": "group", "context": {"traits": {"email": "a@x"}}}, {}),
    ],
)
def test_an_identify_without_traits_has_those_of_its_context(event: dict[str, object], traits: dict[str, object]) -> None:
    assert fields.object_at(event, "traits") == traits
