"""Names, lines and manifests of the archive, without a store."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.archive import layout, lines
from shared.archive.expire import days_to_remove
from shared.archive.layout import Entry, Index
from shared.archive.lines import Stored
from shared.errors import ConfigError, Permanent
from shared.events.frame import Frame, Head, RequestContext, decode_frame, encode_frame, pack
from shared.project.archive import LocalArchive, S3Archive
from shared.project.read import decode_project

AT = 1_767_225_600.123456
TEXTS = st.none() | st.text(max_size=5)


def context(**facts: object) -> RequestContext:
    return RequestContext(**{"received_at": 1_767_225_600_123_456, "protocol": "segment", "key": "web", **facts})  # type: ignore[arg-type]


def frames_of(text: bytes) -> list[tuple[int, float, Frame]]:
    return [
        (stored.seq, stored.at_seconds, decode_frame(stored.payload)) for stored in lines.read("shop", text.split(b"\n")[:-1])
    ]


@given(
    heads=st.lists(st.tuples(st.text(min_size=1, max_size=5), st.text(max_size=5), TEXTS, TEXTS, TEXTS), min_size=1, max_size=30)
)
def test_a_frame_comes_back_as_it_was(heads: list[tuple[str, str, str | None, str | None, str | None]]) -> None:
    requests = [
        context(ip="203.0.113.9", user_agent="x", sent_at="now", skew=-5, defaults=b'{"context":{"a":1}}', headers={"a": "b"}),
        context(key="api", kind="server", agent={"browser": "b"}, geo={"country": "DE", "at": [1.5, 2]}, bot=True, complete=True),
    ]
    frame = pack(
        "shop",
        requests,
        [Head(*head, index % 2) for index, head in enumerate(heads)],
        [f'{{"n":{n},"é":1e400}}'.encode() for n in range(len(heads))],
    )
    text, events = lines.write(Stored(7, AT, encode_frame(frame)))
    ((seq, at_seconds, back),) = frames_of(text)
    assert (seq, events) == (7, len(heads))
    assert at_seconds == pytest.approx(AT, abs=1e-6)
    assert [(head.message_id, head.type, head.event, head.user_id, head.anonymous_id) for head in back.heads] == heads
    assert [back.requests[head.request] for head in back.heads] == [requests[head.request] for head in frame.heads]
    assert back.bodies() == frame.bodies()


def test_line_breaks_between_tokens_become_blanks_and_nothing_else_changes() -> None:
    frame = pack("shop", [context(defaults=b'{\n"a":1}')], [Head("m", "track")], [b'{\r\n "a": "x\\ny"\n}'])
    text, _ = lines.write(Stored(1, AT, encode_frame(frame)))
    assert text.count(b"\n") == 1
    ((_, _, back),) = frames_of(text)
    assert back.bodies() == [b'{   "a": "x\\ny" }']
    assert back.requests[0].defaults == b'{ "a":1}'


def test_hints_and_origins_of_a_frame_stay() -> None:
    frame = pack("shop", [context()], [Head("m", "track"), Head("n", "track")], [b"{}", b"{}"])
    frame.trusted_hints, frame.origins = True, ["a:1", ""]
    text, _ = lines.write(Stored(1, AT, encode_frame(frame)))
    ((_, _, back),) = frames_of(text)
    assert (back.trusted_hints, back.origins) == (True, ["a:1", ""])


@pytest.mark.parametrize("payload", [b"no frame", encode_frame(pack("shop", [context()], [Head("m", "track")], [b'{"a":\n']))])
def test_a_frame_that_cannot_be_read_stays_byte_for_byte(payload: bytes) -> None:
    text, events = lines.write(Stored(3, AT, payload))
    assert (events, text.count(b"\n")) == (0, 1)
    (stored,) = lines.read("shop", text.split(b"\n")[:-1])
    assert (stored.seq, stored.payload) == (3, payload)


def test_a_body_too_deep_to_read_stops_no_archive() -> None:
    payload = encode_frame(pack("shop", [context()], [Head("m", "track")], [b"[" * 100_000 + b"]" * 100_000]))
    text, events = lines.write(Stored(1, AT, payload))
    assert events == 0
    assert [stored.payload for stored in lines.read("shop", text.split(b"\n")[:-1])] == [payload]


def test_frames_of_one_text_come_apart_by_their_sequences() -> None:
    frame = encode_frame(pack("shop", [context()], [Head("m", "track"), Head("n", "page")], [b"{}", b"{}"]))
    text = b"".join(lines.write(Stored(seq, AT, frame))[0] for seq in (4, 9))
    assert [(seq, len(back)) for seq, _, back in frames_of(text)] == [(4, 2), (9, 2)]


def test_a_line_of_another_file_is_refused() -> None:
    with pytest.raises(Permanent, match="not a line of an archive"):
        lines.parse(b'{"a": 1}')


def entry(first: int, last: int, after: int, **more: int) -> Entry:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Entry(
        name=layout.name_of("00", first, last), first=first, last=last, after=after, begins=moment, ends=moment, frames=1,
        events=1, bytes=1, sha256="", **more,
    )  # fmt: skip


def test_objects_are_named_by_site_day_hour_and_sequence() -> None:
    day, hour = layout.hour_of(AT)
    key = layout.folder("shop", day) + layout.name_of(hour, 12, 345)
    assert key == "raw/site=shop/dt=2026-01-01/hr=00/00000000000000000012-00000000000000000345.ndjson.zst"
    assert layout.day_of(key) == "2026-01-01"


def test_another_incarnation_and_another_revision_have_names_of_their_own() -> None:
    names = {layout.name_of("00", 1, 2), layout.name_of("00", 1, 2, 2), layout.name_of("00", 1, 2, 1, 1)}
    assert len(names) == 3
    assert all(layout.is_name(name) for name in names)
    assert not layout.is_name("manifest.json")
    again = layout.rewritten(entry(1, 2, 0, revision=3))
    assert again == layout.name_of("00", 1, 2, 1, 4)


def test_an_object_that_is_gone_from_the_chain_is_named() -> None:
    whole = [entry(1, 5, 0), entry(9, 12, 5), entry(13, 13, 12)]
    assert layout.breaks(whole) == []
    (said,) = layout.breaks([whole[0], whole[2]])
    assert "begins behind 12" in said
    assert layout.position(whole, 1) == 13
    assert layout.position(whole, 2) == 0


def test_an_index_knows_the_incarnations_by_number() -> None:
    index = Index(site="shop", incarnations=["a", "b"])
    assert [index.number(each) for each in ("a", "b", "c")] == [1, 2, 0]


NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
DAYS = ["2026-01-01", "2026-01-08", "2026-01-09", "2026-01-10"]


@pytest.mark.parametrize(
    ("keep", "room", "gone"),
    [
        (0, 0, []),
        (2 * 86_400, 0, DAYS[:1]),
        (3600, 0, DAYS[:3]),
        (0, 25, DAYS[:2]),
        (0, 1, DAYS[:3]),
        (2 * 86_400, 1000, DAYS[:1]),
    ],
)
def test_days_go_by_age_and_by_room_and_the_newest_never(keep: int, room: int, gone: list[str]) -> None:
    assert days_to_remove(DAYS, dict.fromkeys(DAYS, 10), NOW, keep, room) == gone


def test_a_project_says_where_it_is_archived() -> None:
    sites = {"shop": {}, "quiet": {"archive": False}}
    local = decode_project({"sites": sites, "archive": {"type": "local", "path": "/a", "keep": "30d"}})
    assert isinstance(local.archive, LocalArchive)
    assert float(local.archive.keep) == 30 * 86_400
    s3 = decode_project({"sites": sites, "archive": {"type": "s3", "bucket": "raw", "prefix": "p/"}})
    assert isinstance(s3.archive, S3Archive)
    assert s3.archive.root == "p/"
    assert decode_project({"sites": sites, "archive": "off"}).archive == "off"
    assert decode_project({"sites": sites}).archive is None


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        ({"type": "local"}, "path"),
        ({"type": "tape", "path": "/a"}, "tape"),
        ({"type": "local", "path": "/a", "perod": "1m"}, "perod"),
        ({"type": "local", "path": "/a", "period": "1d"}, "1s to 1h"),
        ({"type": "s3", "bucket": "raw", "prefix": "/p"}, "prefix"),
    ],
)
def test_a_wrong_archive_is_refused_with_its_place(archive: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        decode_project({"archive": archive})
    assert all(problem.path.startswith("archive") for problem in caught.value.problems)
