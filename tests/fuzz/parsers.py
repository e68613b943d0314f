"""Fuzzes the parsers of the edge, guided by coverage: `make fuzz`, or `python -m tests.fuzz.parsers -runs=1000000`.

Needs atheris (`pip install atheris`), which is in no requirements: it has no wheels for every Python. What must hold is
`tests/support/odd_bodies.py`. An input that breaks it is written to a file and printed.
"""

from __future__ import annotations

import contextlib
import sys
from functools import partial

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["ingest", "shared"]):
    from ingest.contract import HttpRequest
    from ingest.judge.encoding import BadEncoding, TooLarge, decode_body
    from tests.support import odd_bodies

SEEDS = (
    b'0{"batch":[{"type":"track","event":"Sold","userId":"u","properties":{"a":[1,{"b":2}]}}],"sentAt":"2026-01-01T00:00:00Z"}',
    b'1{"event":"Sold","userId":5,"t":"\\ud83d\\ude00","n":NaN}',
    b'2{"id":1,"key":"web","batch":[{"type":"page","userId":"u"}]}',
    b"3\x83\xa2id\x01\xa3key\xa3web\xa5batch\x91\x82\xa4type\xa4page\xa6userId\xa1u",
    b'4{"data":[{"e":"ue","ue_pr":"{\\"schema\\":\\"s\\",\\"data\\":{\\"schema\\":\\"iglu:a/b/c/1-0-0\\",\\"data\\":1}}","cx":"e30"}]}',
    b"5\x1f\x8b\x08\x00",
)


def one(data: bytes) -> None:
    """Gives one input to one parser; its first byte says to which."""
    kind, body = data[:1], data[1:]
    match kind[0] % 6 if kind else 0:
        case 0 | 1 as way:
            route = "/v1/batch" if way == 0 else "/v1/track"
            asked = HttpRequest("POST", route, {}, {}, {"x-write-key": "web"}, body, "", "")
            odd_bodies.within_time(partial(odd_bodies.check_segment, asked))
        case 2:
            odd_bodies.check_message(body.decode("utf-8", "replace"))
        case 3:
            odd_bodies.check_message(body)
        case 4:
            asked = HttpRequest("POST", "/com.snowplowanalytics.snowplow/tp2", {}, {}, {"x-write-key": "web"}, body, "", "")
            odd_bodies.within_time(partial(odd_bodies.check_snowplow, asked))
        case _:
            with contextlib.suppress(TooLarge, BadEncoding):
                decode_body(body[1:], ("gzip", "deflate", "br", "zstd")[body[0] % 4] if body else None, 100_000)


def main() -> None:
    """Runs until `-runs` are done, or something breaks."""
    for seed in SEEDS:
        one(seed)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
