"""A file of classic events, one a line: raw or as the part `file` of a form, packed with gzip or not. Pure.

An upload that broke off stored nothing or everything, and its client does not know which. It sends the file again under the same
token (`Idempotency-Key`, or `idempotency_key` in the query): a line without an id of its own gets one made of the token, its number
and its bytes, so the same line is the same event. A file beyond the site's limits is sent in pieces: `offset` is the number of
lines before the piece. The answer names every line that was rejected; every other line is stored, blank ones are skipped.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from ingest.contract import Accepted, Admission, Desk, HttpRequest, Parsed, Refusal, Reject
from ingest.judge.budget import Budget
from ingest.judge.encoding import GZIP_MAGIC, BadEncoding, TooLarge, decode_body
from ingest.judge.forms.rewrite import Members, judge_rewritten
from ingest.judge.mend import Fault
from ingest.judge.repeats import HEADER
from ingest.judge.verdicts import Scan
from ingest.protocols.jitsu_classic.events import to_event
from ingest.protocols.jitsu_classic.shapes import SHAPES

SHOWN_LINES = 100
"""An answer says of so many rejected lines why."""
MOST_PARTS = 16

_BOUNDARY = re.compile(r"""boundary\s*=\s*(?:"([^"]{1,100})"|([^\s;,]{1,100}))""", re.IGNORECASE)
_FILE = re.compile(rb"""name\s*=\s*"?file"?|filename\s*=""", re.IGNORECASE)
_OFFSET = re.compile(r"\d{1,12}", re.ASCII)
_encode = msgspec.json.Encoder().encode


def read_file(request: HttpRequest, admission: Admission, desk: Desk) -> Parsed | Refusal:
    """Reads the lines of an upload."""
    offset = request.query.get("offset") or "0"
    if not _OFFSET.fullmatch(offset):
        return admission.refuse(
            400, "invalid_offset", f"`offset` is {offset[:40]!r}, expected the number of lines before this piece"
        )
    body = _file_of(request, admission)
    if isinstance(body, Refusal):
        return body
    scan = Scan(body)
    most = admission.limits.events_per_request
    if scan.body.count(b"\n") > 2 * most:
        return _too_many(admission, most)
    lines = [(number, line) for number, each in enumerate(scan.body.split(b"\n"), int(offset) + 1) if (line := each.strip())]
    if len(lines) > most:
        return _too_many(admission, most)
    if not lines:
        return admission.refuse(400, "empty_body", "the file has no lines, expected a JSON object on each")
    token = request.headers.get(HEADER) or request.query.get("idempotency_key") or ""
    originals = [line for _, line in lines]
    texts = dict(lines)

    def rewrite(members: Members, position: int) -> dict[str, Any] | Fault:
        event = to_event(members)
        if token and not isinstance(event, Fault) and "messageId" not in event:
            event["messageId"] = _line_id(admission.site, token, position, texts[position])
        return event

    parsed = Parsed(admission, form="classic", repaired=int(scan.replaced))
    quick = _with_id if token else SHAPES.rewritten
    positions = [number for number, _ in lines]
    judge_rewritten(parsed, originals, rewrite, desk.new_id, budget=Budget(), positions=positions, ids_optional=True, quick=quick)
    return parsed


def answer(result: Accepted) -> bytes:
    """Words what became of the lines."""
    rejects = result.rejects
    said: dict[str, Any] = {"status": "ok", "accepted": result.accepted, "rejected": len(rejects)}
    if rejects:
        said["rejected_lines"] = _ranges(rejects)
        said["rejects"] = [
            {"line": each.position, "reason": each.reason, "detail": each.detail} for each in rejects[:SHOWN_LINES]
        ]
    return _encode(said)


def _file_of(request: HttpRequest, admission: Admission) -> bytes | Refusal:
    """Returns the file of an upload, unpacked within the site's limit of a request."""
    kind = request.headers.get("content-type", "")
    body = request.body
    if kind.lower().startswith("multipart/"):
        found = _BOUNDARY.search(kind)
        part = None if found is None else _part(body, (found[1] or found[2]).encode())
        if part is None:
            return admission.refuse(
                400, "broken_form", "the form has no complete part `file`; the upload may have broken off: send it again"
            )
        body = part
    limit = int(admission.limits.request_bytes)
    if body[:2] != GZIP_MAGIC:
        return body
    try:
        return decode_body(body, None, limit)
    except TooLarge:
        return admission.refuse(
            413,
            "request_too_large",
            f"the unpacked file is larger than {limit} bytes, the site's limit; send it in pieces with `offset`",
        )
    except (BadEncoding, zlib.error) as exc:
        return admission.refuse(400, "bad_encoding", str(exc))


def _part(body: bytes, boundary: bytes) -> bytes | None:
    """Returns the part of a form that is a file; None if there is none, or if it does not end."""
    mark = b"--" + boundary
    start = body.find(mark)
    for _ in range(MOST_PARTS):
        if start < 0:
            return None
        end = body.find(b"\r\n" + mark, start + len(mark))
        head, gap, content = body[start + len(mark) : end if end >= 0 else None].partition(b"\r\n\r\n")
        if end < 0 or not gap:
            return None
        if _FILE.search(head[:4096]):
            return content
        start = end + 2
    return None


def _with_id(members: Members) -> bytes | None:
    """Rewrites an event that has an id of its own."""
    return SHAPES.rewritten(members) if "event_id" in members else None


def _line_id(site: str, token: str, number: int, line: bytes) -> str:
    digest = blake2b(digest_size=16)
    for part in (site.encode(), token.encode("utf-8", "surrogateescape"), b"%d" % number, line):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()


def _ranges(rejects: Sequence[Reject]) -> list[list[int]]:
    """Returns the numbers of rejected lines as ranges, first and last line included."""
    ranges: list[list[int]] = []
    for each in rejects:
        if ranges and ranges[-1][1] == each.position - 1:
            ranges[-1][1] = each.position
        else:
            ranges.append([each.position, each.position])
    return ranges


def _too_many(admission: Admission, most: int) -> Refusal:
    message = f"the file has more than {most} events, the site's limit; send it in pieces with `offset`, or raise the limit"
    return admission.refuse(413, "too_many_events", message)
