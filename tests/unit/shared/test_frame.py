"""The frame codec: whatever is packed comes back, and nothing that is not a frame is taken for one."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Permanent
from shared.events.frame import (
    COMPRESS_FROM_EVENTS,
    PLAIN,
    VERSION,
    ZSTD,
    Frame,
    Head,
    RequestContext,
    decode_frame,
    encode_frame,
    pack,
    select,
)

texts = st.text(max_size=40)
requests = st.builds(
    RequestContext,
    received_at=st.integers(0, 2**53),
    protocol=texts,
    key=texts,
    ip=st.none() | texts,
    sent_at=st.none() | texts,
    skew=st.none() | st.integers(-(2**53), 2**53),
    defaults=st.none() | st.binary(max_size=50),
    headers=st.none() | st.dictionaries(texts, texts, max_size=3),
)


@st.composite
def frames(draw: st.DrawFn) -> tuple[Frame, list[bytes]]:
    contexts = draw(st.lists(requests, min_size=1, max_size=4))
    count = draw(st.integers(0, 2 * COMPRESS_FROM_EVENTS))
    bodies = draw(st.lists(st.binary(max_size=200), min_size=count, max_size=count))
    heads = [
        Head(draw(texts), draw(texts), draw(st.none() | texts), request=draw(st.integers(0, len(contexts) - 1)))
        for _ in range(count)
    ]
    return pack("shop", contexts, heads, bodies), bodies


@given(frames())
def test_what_is_packed_comes_back_byte_for_byte(packed: tuple[Frame, list[bytes]]) -> None:
    frame, bodies = packed
    back = decode_frame(encode_frame(frame))
    assert back == frame
    assert back.bodies() == bodies


@given(frames(), st.data())
def test_a_selection_keeps_bodies_heads_and_their_requests(packed: tuple[Frame, list[bytes]], data: st.DataObject) -> None:
    frame, bodies = packed
    indexes = sorted(data.draw(st.sets(st.integers(0, len(bodies) - 1)))) if bodies else []
    chosen = decode_frame(encode_frame(select(frame, indexes)))
    assert chosen.bodies() == [bodies[index] for index in indexes]
    for head, index in zip(chosen.heads, indexes, strict=True):
        original = frame.heads[index]
        assert msgspec.structs.replace(head, request=0) == msgspec.structs.replace(original, request=0)
        assert chosen.requests[head.request] == frame.requests[original.request]


@given(st.binary(max_size=300))
def test_bytes_that_are_no_frame_are_refused_as_permanent(payload: bytes) -> None:
    try:
        decode_frame(payload).bodies()
    except Permanent:
        return
    except BaseException as exc:  # noqa: BLE001
        pytest.fail(f"raised {exc!r}")


@given(frames(), st.data())
def test_a_damaged_frame_is_refused_or_read_but_never_anything_else(
    packed: tuple[Frame, list[bytes]], data: st.DataObject
) -> None:
    payload = bytearray(encode_frame(packed[0]))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Permanent):
        decode_frame(bytes(payload)).bodies()


def test_blocks_are_compressed_from_the_threshold_on() -> None:
    request = RequestContext(0, "segment", "k")
    for count, codec in ((COMPRESS_FROM_EVENTS - 1, PLAIN), (COMPRESS_FROM_EVENTS, ZSTD)):
        assert pack("shop", [request], [Head("m", "track")] * count, [b"{}"] * count).codec == codec


def test_a_frame_of_a_newer_version_is_refused_with_what_to_do() -> None:
    frame = Frame(VERSION + 1, "shop", [], [], [], PLAIN, b"")
    with pytest.raises(Permanent, match="upgrade this service"):
        decode_frame(encode_frame(frame))


def test_origins_of_replayed_dead_letters_travel_with_their_events() -> None:
    heads, bodies = [Head(id_, "track") for id_ in "abc"], [b"{}"] * 3
    frame = pack("shop", [RequestContext(0, "segment", "k")], heads, bodies)
    assert decode_frame(encode_frame(select(frame, [0, 2]))).origins == []
    frame.origins = ["live:1:0", "live:1:4", "live:2:0"]
    assert decode_frame(encode_frame(select(frame, [0, 2]))).origins == ["live:1:0", "live:2:0"]
    frame.origins.pop()
    with pytest.raises(Permanent, match="origins"):
        decode_frame(encode_frame(frame))


def test_a_frame_with_more_fields_than_known_is_still_read() -> None:
    plain = msgspec.msgpack.decode(encode_frame(pack("shop", [RequestContext(0, "segment", "k")], [Head("m", "track")], [b"{}"])))
    assert decode_frame(msgspec.msgpack.encode([*plain, "a field of the future"])).bodies() == [b"{}"]


def test_a_frame_says_how_many_events_functions_made_of_how_many() -> None:
    frame = pack("shop", [RequestContext(0, "p", "k")], [Head("m", "track")], [b"{}"])
    assert (frame.source_events, frame.made) == (1, 0)
    frame.taken, frame.dropped, frame.dead = 4, {"function": 2}, {"function_failed": 3}
    back = decode_frame(encode_frame(frame))
    assert (back.source_events, back.made) == (4, 2)
    assert (select(back, [0]).source_events, select(back, [0]).made) == (1, 0), "what functions did is of the whole frame"


def test_a_frame_may_hold_no_event() -> None:
    frame = pack("shop", [], [], [])
    frame.taken, frame.dropped = 2, {"function": 2}
    back = decode_frame(encode_frame(frame))
    assert (back.bodies(), back.source_events, back.made) == ([], 2, 0)
