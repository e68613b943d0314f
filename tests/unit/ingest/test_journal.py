"""The journal's format: cut, flipped and spliced at every byte it gives only records that were written, each where it was written."""

from __future__ import annotations

import struct
from zlib import crc32

import msgspec
import pytest

from ingest.journal.records import (
    FILE_HEAD_BYTES,
    HEAD_BYTES,
    Contents,
    Record,
    encode_head,
    encode_mark,
    encode_record,
    new_salt,
    read_marks,
    read_records,
)

SALT, OTHER_SALT = b"0123456789abcdef", b"fedcba9876543210"
RECORDS = [Record("events.shop.0", f"id-{n}", n, b"body" * n) for n in range(4)]


def write(records: list[Record], salt: bytes = SALT) -> tuple[bytes, list[int]]:
    """Returns a file and where each record begins in it, and the file ends."""
    data, offsets = encode_head(salt), []
    for each in records:
        offsets.append(len(data))
        data += encode_record(each, salt, len(data))
    return data, [*offsets, len(data)]


def test_what_is_written_is_read() -> None:
    odd = [Record("", "", 0, b""), Record("é\n", "\0", 2**40, bytes(range(256)), {"a": "b"}, 1.5), Record("a", "b", 1, b"", {})]
    for records in ([], RECORDS, odd, [*odd, *RECORDS, *odd]):
        check_written_is_read(records)


def check_written_is_read(records: list[Record]) -> None:
    data, offsets = write(records, new_salt())
    contents = read_records(data)
    assert contents.records == records
    assert [each.offset for each in contents.stored] == offsets[:-1]
    assert contents.damaged == 0


def test_cut_at_any_byte_it_gives_the_records_that_were_whole_and_tells_of_no_damage() -> None:
    data, offsets = write(RECORDS)
    for cut in range(len(data)):
        contents = read_records(data[:cut])
        assert contents.records == RECORDS[: sum(end <= cut for end in offsets[1:])], cut
        assert contents.damaged == 0, cut


def test_a_bit_flipped_anywhere_costs_the_record_it_hits_and_is_told() -> None:
    data, offsets = write(RECORDS)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            contents = read_records(bytes(flipped))
            if position < FILE_HEAD_BYTES:
                assert contents.records == RECORDS
            else:
                hit = sum(end <= position for end in offsets[1:])
                assert contents.records == RECORDS[:hit] + RECORDS[hit + 1 :], position
                assert contents.damaged == offsets[hit + 1] - offsets[hit], position


def test_pieces_of_this_and_other_files_spliced_in_at_any_byte_are_never_read_as_records() -> None:
    data, offsets = write(RECORDS)
    forged = encode_record(Record("events.shop.0", "forged", 1, b"x"), OTHER_SALT, 0)
    own = data[offsets[1] : offsets[2]]
    for piece in (forged, own, data):
        for position in range(FILE_HEAD_BYTES, len(data)):
            spliced = read_records(data[:position] + piece + data[position:])
            assert [each for each in spliced.stored if each not in read_records(data).stored] == [], position


@pytest.mark.parametrize("old", [False, True])
def test_a_record_inside_the_body_of_one_that_is_cut_off_is_not_found(old: bool) -> None:
    forged = Record("$KV.config.project", "forged", 1, b"the attacker's project")
    for inner in (_old(forged), encode_record(forged, OTHER_SALT, FILE_HEAD_BYTES), write([forged])[0]):
        outer = Record("events.shop.0", "outer", 1, inner * 3 + b"." * 50)
        data = _old(RECORDS[0]) + _old(outer) if old else write([RECORDS[0], outer])[0]
        for cut in range(1, 50):
            assert read_records(data[:-cut]).records == [RECORDS[0]]
        flipped = bytearray(data)
        flipped[data.index(inner) - 1] ^= 1  # the content of the outer record is damaged
        assert read_records(bytes(flipped)).records == [RECORDS[0]]
        if not old:
            head = write([RECORDS[0]])[1][-1]
            flipped = bytearray(data)
            flipped[head + 9] ^= 0xFF  # its length is, so where it ends is unknown
            assert read_records(bytes(flipped)).records == [RECORDS[0]]


def _old(record: Record) -> bytes:
    """A record as earlier releases wrote it."""
    content = msgspec.msgpack.encode(tuple(record)[:4])
    return struct.pack(">4sII", b"PSJ1", len(content), crc32(content)) + content


def test_files_of_earlier_releases_are_read_as_far_as_record_follows_record() -> None:
    pieces = [_old(each) for each in RECORDS]
    data = b"".join(pieces)
    assert read_records(data).records == RECORDS
    for cut in range(1, len(data)):
        contents = read_records(data[:cut])
        assert contents.records == RECORDS[: len(contents.records)]
        assert contents.damaged == 0
    middle = bytearray(data)
    middle[len(pieces[0]) + 20] ^= 1
    assert read_records(bytes(middle)).records == [RECORDS[0], *RECORDS[2:]]
    lost = read_records(pieces[0] + b"?" + b"".join(pieces[1:]))
    assert (lost.records, lost.damaged) == (RECORDS[:1], 1 + len(b"".join(pieces[1:])))


@pytest.mark.parametrize("tail", [b"\0" * 500, b"PSJ"[::-1], b"\xff" * 8])
def test_a_tail_that_no_crash_leaves_is_damage(tail: bytes) -> None:
    data, _ = write(RECORDS[:1])
    contents = read_records(data + tail)
    assert (contents.records, contents.damaged) == (RECORDS[:1], len(tail))


def test_a_file_without_a_readable_head_is_damaged_as_a_whole() -> None:
    data, _ = write(RECORDS)
    assert read_records(b"?" * FILE_HEAD_BYTES + data[FILE_HEAD_BYTES:]) == Contents([], len(data))
    assert read_records(b"") == Contents([], 0)


def test_notes_of_published_records_hold_for_their_file_only_whatever_is_cut_or_flipped() -> None:
    notes = b"".join(encode_mark(offset, SALT) for offset in (48, 100, 200))
    assert read_marks(notes, SALT) == {48, 100, 200}
    assert read_marks(notes, OTHER_SALT) == set()
    for cut in range(len(notes)):
        assert read_marks(notes[:cut], SALT) <= {48, 100, 200}
    for position in range(len(notes)):
        flipped = bytearray(notes)
        flipped[position] ^= 1
        assert len(read_marks(bytes(flipped), SALT)) == 2
    # a crash, or a full disk, cuts a note off, and the next ones are written behind it
    assert read_marks(notes[:-5] + encode_mark(300, SALT), SALT) == {48, 100, 300}


def test_only_frames_and_dead_letters_are_the_edges() -> None:
    for subject in ("events.shop.0", "dead.ingest.shop"):
        assert Record(subject, "", 0, b"").is_ours
    for subject in (
        "$KV.config.project",
        "events",
        "events.a",
        "events.a.0.b",
        "events.*.0",
        "dead.>",
        "eventsx.a.b",
        "deliver.a.b",
    ):
        assert not Record(subject, "", 0, b"").is_ours


def test_a_head_that_is_whole_and_broken_is_damage_at_the_very_end_too() -> None:
    data, offsets = write(RECORDS[:1])
    head = bytearray(data[offsets[0] : offsets[0] + HEAD_BYTES])
    head[-1] ^= 1
    assert read_records(data + bytes(head)).damaged == HEAD_BYTES
    assert read_records(data + bytes(head[:-1])).damaged == 0, "it was being written"
