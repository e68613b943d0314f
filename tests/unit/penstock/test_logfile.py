"""Logs of processes: rotated while they are written to, and read for the last thing said."""

from __future__ import annotations

from pathlib import Path

from penstock.stack.logfile import last_words, rotate


def test_a_log_is_rotated_under_its_writer_and_goes_on_at_its_start(tmp_path: Path) -> None:
    log = tmp_path / "ingest.log"
    with log.open("ab") as writer:
        writer.write(b"x" * 100)
        writer.flush()
        assert not rotate(log, max_bytes=100)
        assert rotate(log, max_bytes=99)
        writer.write(b"next line")
        writer.flush()
    assert log.read_bytes() == b"next line"
    assert (tmp_path / "ingest.log.1").read_bytes() == b"x" * 100


def test_only_so_many_rotated_logs_are_kept_the_newest(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for number in range(6):
        log.write_bytes(b"%d" % number * 20)
        rotate(log, max_bytes=10, keep=3)
    assert [(tmp_path / f"a.log.{number}").read_bytes()[:1] for number in (1, 2, 3)] == [b"5", b"4", b"3"]
    assert not (tmp_path / "a.log.4").exists()


def test_a_log_that_does_not_exist_is_not_rotated(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "none.log")
    assert last_words(tmp_path / "none.log") == ""


def test_the_last_words_are_those_of_a_log_line_with_its_error(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(
        '{"level":"error","message":"cannot start","error":"port 1 is taken"}\n{"level":"info","message":"stopped"}\n\n'
    )
    assert last_words(log) == "cannot start: port 1 is taken"
    log.write_text("plain words\n")
    assert last_words(log) == "plain words"
