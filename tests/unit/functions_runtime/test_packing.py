"""Frames to events and back: what goes on, under which heads and request, and what is counted in the frame."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import msgspec
import pytest

from functions_runtime.rules.outcome import digest_of, encode_outcome, outcome_of
from functions_runtime.rules.packing import Finished, Prepared, finish, prepare
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate
from loader.rows.batch import SEQUENCE_FACTOR
from shared.events.dead import decode_dead
from shared.events.event import facts_of, materialise
from shared.events.frame import MOST_EVENTS, Frame, Head, RequestContext, decode_frame, encode_frame, pack
from shared.events.headers import Place
from shared.events.outcome import DeadReason, DropReason
from shared.forget.ids import Forgotten, digest, listed
from shared.project.functions import PrivacyRule
from shared.rules.privacy import compile_rules

REQUEST = RequestContext(1_767_225_600_000_000, "segment", "web", ip="203.0.113.7", user_agent="Mozilla", geo={"country": "DE"})


def frame_of(*bodies: bytes) -> Frame:
    heads = [Head(f"m{number}", "track", "Order", f"u{number}") for number in range(len(bodies))]
    return pack("shop", [REQUEST], heads, bodies)


def same(prepared: Prepared) -> list[Fate]:
    return [Fate(wire.SAME)] * len(prepared.given)


def fulls(frame: Frame) -> list[dict[str, Any]]:
    """The events of a frame as the loader sees them."""
    facts = [facts_of(request) for request in frame.requests]
    return [materialise(body, head, facts[head.request]) for body, head in zip(frame.bodies(), frame.heads, strict=True)]


def through(frame: Frame, fates: list[Fate] | None = None, rules: list[PrivacyRule] | None = None) -> Finished:
    prepared = prepare(frame, compile_rules(rules or [], lambda: b"n" * 12))
    finished = finish(prepared, same(prepared) if fates is None else fates)
    finished.frame = decode_frame(encode_frame(finished.frame))
    return finished


def test_events_that_functions_leave_alone_go_on_as_the_clients_bytes() -> None:
    frame = frame_of(b'{"a": 1.50}', b'{"a":2}')
    made = through(frame).frame
    assert made.bodies() == frame.bodies()
    assert made.heads == frame.heads
    assert (made.requests, made.source_events, made.made) == ([REQUEST], 2, 0)


def test_a_head_says_what_rules_left_of_its_event() -> None:
    rules = [PrivacyRule(field="userId", do="hash", secret="s"), PrivacyRule(field="anonymousId", do="drop")]
    head = Head("m0", "track", "Order", "jane", "device-1")
    body = b'{"type":"track","event":"Order","userId":"jane","anonymousId":"device-1"}'
    made = through(pack("shop", [REQUEST], [head], [body]), rules=rules).frame
    assert made.heads == [Head("m0", "track", "Order", fulls(made)[0]["userId"], None)]
    assert b"jane" not in encode_frame(made)


def test_a_function_gets_the_full_event_and_what_it_gives_is_not_filled_up_again() -> None:
    prepared = prepare(frame_of(b'{"properties":{"n":1}}'), None)
    given = json.loads(prepared.given[0].body)
    assert given["context"]["ip"] == "203.0.113.7"
    assert given["receivedAt"] == given["timestamp"] == "2026-01-01T00:00:00Z"
    del given["context"]["ip"]
    made = finish(prepared, [Fate(wire.OUTPUTS, (json.dumps(given).encode(),))]).frame
    event = fulls(made)[0]
    assert "ip" not in event["context"]
    assert event["context"]["userAgent"] == "Mozilla"
    assert event["receivedAt"].year == 2026
    assert made.trusted_hints
    assert b"203.0.113.7" not in encode_frame(made)


def test_heads_follow_what_a_function_gave() -> None:
    outputs = (
        b'{"type":"page","messageId":"m0","userId":"x"}',
        b'{"event":5,"messageId":"m0","anonymousId":"a"}',
        b'{"messageId":"own","type":"","userId":7}',
        b"{}",
    )
    made = through(frame_of(b'{"userId":"u0"}'), [Fate(wire.OUTPUTS, outputs)]).frame
    assert [(head.message_id, head.type, head.event, head.user_id, head.anonymous_id) for head in made.heads] == [
        ("m0", "page", None, "x", None),
        ("m0_1", "track", None, None, "a"),
        ("own", "track", None, None, None),
        ("m0_3", "track", None, None, None),
    ]
    assert (made.source_events, made.made) == (1, 3)


def test_every_event_is_counted_once() -> None:
    chance = random.Random(7)
    for _ in range(50):
        kinds = [chance.choice([wire.SAME, wire.OUTPUTS, wire.DROPPED, wire.DEAD]) for _ in range(30)]
        fates = [
            Fate(
                kind,
                outputs=tuple(b'{"n":%d}' % n for n in range(chance.randrange(1, 4))) if kind == wire.OUTPUTS else (),
                reason=DeadReason.FUNCTION_FAILED if kind == wire.DEAD else "",
                detail="failed" if kind == wire.DROPPED and chance.random() < 0.5 else "",
                retry=("later", "f", True) if kind == wire.DROPPED and chance.random() < 0.3 else None,
            )
            for kind in kinds
        ]
        finished = through(frame_of(*[b"{}"] * 30), fates)
        made = finished.frame
        again = sum(retry.dropped for retry in finished.retries)
        assert made.source_events == 30
        assert len(made) == sum(len(fate.outputs) if fate.kind == wire.OUTPUTS else fate.kind == wire.SAME for fate in fates)
        assert sum(made.dead.values()) == len(finished.letters) == kinds.count(wire.DEAD)
        assert sum(made.dropped.values()) + again == kinds.count(wire.DROPPED)
        assert made.source_events + made.made == len(made) + sum(made.dropped.values()) + sum(made.dead.values())
        assert set(made.dropped) <= {DropReason.FUNCTION, DropReason.FUNCTION_FAILED}


@pytest.mark.parametrize("key", ["__sql_type_a", "JITSU_TABLE_NAME", "__sql_type", "__sql\\u005ftype_a"])
def test_what_clients_say_about_tables_reaches_no_function_and_no_table(key: str) -> None:
    body = b'{"a":1,"%b":"bigint","deep":{"%b":"bigint"}}' % (key.encode(), key.encode())
    prepared = prepare(frame_of(body), None)
    assert b"bigint" not in prepared.given[0].body
    made = finish(prepared, same(prepared)).frame
    assert made.trusted_hints
    assert {key for key in fulls(made)[0] if key.startswith(("__sql", "JITSU"))} == set()


def test_rules_are_applied_once_before_functions_and_letters_hold_what_they_left() -> None:
    rules = [
        PrivacyRule(field="context.ip", do="truncate"),
        PrivacyRule(field="userId", do="hash", secret="salt"),
        PrivacyRule(field="email", do="drop"),
    ]
    frame = frame_of(b'{"userId":"u0","email":"a@b.example"}')
    prepared = prepare(frame, compile_rules(rules, lambda: b"n" * 12))
    made = finish(prepared, same(prepared)).frame
    event = fulls(made)[0]
    assert (event["context"]["ip"], "email" in event) == ("203.0.113.0", False)
    assert len(event["userId"]) == 64
    assert b"a@b.example" not in prepared.bodies[0]
    again = prepare(made, compile_rules(rules, lambda: b"n" * 12))
    assert fulls(finish(again, same(again)).frame)[0]["userId"] == event["userId"]


@pytest.mark.parametrize("body", [b'{"a":1e999}', b'{"a":"\\ud800"}', b'{"a":123456789012345678901234567890}'])
def test_bodies_that_are_odd_but_json_reach_functions(body: bytes) -> None:
    assert len(prepare(frame_of(body), None).given) == 1


def test_a_body_that_cannot_be_read_is_a_dead_letter_of_its_own() -> None:
    prepared = prepare(frame_of(b"{}", b"{broken", b"{}"), None)
    finished = finish(prepared, same(prepared))
    assert [(letter.index, letter.reason) for letter in finished.letters] == [(1, DeadReason.MALFORMED_JSON)]
    assert len(finished.frame) == 2


def test_a_result_that_nests_too_deep_is_a_dead_letter() -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    finished = through(frame_of(b"{}", b"{}"), [Fate(wire.OUTPUTS, (deep,)), Fate(wire.SAME)])
    assert [letter.reason for letter in finished.letters] == [DeadReason.FUNCTION_RESULT]
    assert len(finished.frame) == 1


def test_a_frame_that_grows_too_large_loses_what_grew_most() -> None:
    prepared = prepare(frame_of(b"{}", b"{}", b"{}"), None)
    large = (msgspec.json.encode({"a": "x" * 1000}),) * 10
    fates = [Fate(wire.OUTPUTS, large[:1]), Fate(wire.OUTPUTS, large, function="f"), Fate(wire.SAME)]
    finished = finish(prepared, fates, 5000)
    assert [(letter.index, letter.reason) for letter in finished.letters] == [(1, DeadReason.FUNCTION_RESULT)]
    assert len(finished.frame) == 2


def test_a_frame_holds_no_more_events_than_a_loader_can_number() -> None:
    outputs = tuple([b"{}"] * 1000)
    fates = [Fate(wire.OUTPUTS, outputs) for _ in range(70)]
    finished = through(frame_of(*[b"{}"] * 71), [*fates, Fate(wire.SAME)])
    made = finished.frame
    assert len(made) == 64_001 <= MOST_EVENTS < SEQUENCE_FACTOR
    assert made.dead == {DeadReason.FUNCTION_RESULT: 6}
    assert made.source_events + made.made == len(made) + 6


def test_origins_of_a_replay_follow_their_events() -> None:
    frame = frame_of(b"{}", b"{}")
    frame.origins = ["a:1:0", "a:2:0"]
    finished = through(frame, [Fate(wire.DROPPED, function="f"), Fate(wire.OUTPUTS, (b"{}", b"{}"))])
    assert finished.frame.origins == ["a:2:0", "a:2:0"]


def test_an_event_on_which_our_own_code_fails_is_a_dead_letter_of_its_own() -> None:
    def broken(event: dict[str, Any]) -> int:
        return 1 // int(event["n"])

    prepared = prepare(frame_of(b'{"n":1}', b'{"n":0}'), broken)
    assert list(prepared.given) == [0]
    assert prepared.dead[1].reason == DeadReason.INTERNAL_ERROR


@pytest.mark.parametrize(("dropped", "dead"), [(True, 1), (False, 0)])
def test_an_event_whose_tries_are_used_up_is_a_dead_letter_if_nothing_of_it_went_on(dropped: bool, dead: int) -> None:
    prepared = prepare(frame_of(b"{}"), None)
    fate = Fate(wire.DROPPED if dropped else wire.SAME, function="f", retry=("later", "f", dropped))
    finished = finish(prepared, [fate], has_tries=lambda _: False)
    assert not finished.retries
    assert len(finished.letters) == dead == finished.frame.dead.get(DeadReason.FUNCTION_FAILED, 0)
    assert len(finished.frame) == 1 - dead


def test_ids_of_several_events_stay_apart_whatever_ids_a_function_gives() -> None:
    given = [b'{"messageId":"a"}', b'{"messageId":"a_2"}', b'{"messageId":"a"}', b'{"messageId":"a"}']
    made = through(frame_of(b"{}"), [Fate(wire.OUTPUTS, tuple(given))]).frame
    assert len({head.message_id for head in made.heads}) == 4


def test_what_goes_nowhere_takes_no_room_in_a_frame() -> None:
    prepared = prepare(frame_of(*[b'{"a":"%s"}' % (b"x" * 500)] * 3), None)
    fates = [Fate(wire.DROPPED), Fate(wire.DROPPED), Fate(wire.OUTPUTS, (b'{"n":1}', b'{"n":2}'))]
    finished = finish(prepared, fates, 600)
    assert (len(finished.frame), finished.frame.dropped, finished.letters) == (2, {DropReason.FUNCTION: 2}, [])


def test_messages_with_other_events_of_a_frame_have_other_ids() -> None:
    assert digest_of([1, 2]) == digest_of([1, 2])
    assert len({digest_of([1, 2]), digest_of([1, 3]), digest_of([12]), digest_of([1])}) == 4


@pytest.mark.parametrize("body", [b'{"card":"4111', b'["4111"]', b"\xff4111", b'{"a":' * 100_000 + b'"4111"'])
def test_of_an_event_that_rules_cannot_clean_nothing_is_kept_but_size_and_hash(body: bytes) -> None:
    frame = frame_of(b'{"a":1}', body)
    rules = compile_rules([PrivacyRule(field="card", do="drop")], bytes)
    prepared = prepare(frame, rules)
    outcome = outcome_of(
        prepared,
        finish(prepared, same(prepared)),
        queue="c",
        connection="c",
        place=Place("live", 1, 2),
        headers={},
        failures=0,
        delay=lambda _: None,
        at=0.0,
    )
    (letter,) = decode_dead(outcome.letters)
    assert (letter.message_id, letter.body, letter.user_id, letter.event) == ("m1", b"", None, None)
    assert letter.request is not None
    assert letter.request.ip is None
    assert f"{len(body)} bytes, SHA-256 {hashlib.sha256(body).hexdigest()}" in letter.detail
    assert b"4111" not in encode_outcome(outcome)
    assert prepare(frame, None).bodies[1] == body


def test_a_dead_letter_is_not_tried_again() -> None:
    prepared = prepare(frame_of(b'{"a":1}', b'{"a":2}'), None)
    again = ("later", "f", False)
    finished = finish(
        prepared, [Fate(wire.DEAD, reason="function_failed", retry=again), Fate(wire.OUTPUTS, (b"x",), retry=again)]
    )
    assert ([letter.index for letter in finished.letters], finished.retries) == ([0, 1], [])


def test_no_function_sees_events_of_forgotten_people_and_the_frame_counts_them() -> None:
    salt, forgotten = bytes(32), Forgotten()
    forgotten.put(digest("u1", salt), listed("u1", salt, at=0.0, request=""))
    prepared = prepare(frame_of(b'{"n":0}', b'{"n":1}', b'{"n":2}'), None, forgotten=forgotten)
    assert list(prepared.given) == [0, 2]
    made = finish(prepared, same(prepared)).frame
    assert ([head.message_id for head in made.heads], made.dropped, made.source_events) == (["m0", "m2"], {"forgotten": 1}, 3)
