"""OpenTelemetry's logs and spans over HTTP (OTLP 1.x), as its exporters and collectors send them.

https://opentelemetry.io/docs/specs/otlp/ describes the protocol. `/v1/logs` and `/v1/traces` take protobuf or JSON, as the content
type says, and answer in the same. Each log record is an event of type `log`, each span one of type `span`, so each kind is a table.
Records are judged one by one: the answer's `partial_success` counts the rejected ones, and exporters do not send them again. An
exporter repeats a request after 429 and 503 only; a span's id is made of its own ids and a log's of the request's bytes, so a
repeat doubles nothing.

The key stands in a header (`OTEL_EXPORTER_OTLP_HEADERS="X-Write-Key=…"`), the query or the host name: bodies have no place for it,
so a stranger's body is never read.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ingest.clients import carriers
from ingest.contract import Accepted, Admission, Credential, Desk, HttpRequest, Parsed, Refusal, Reply, Route
from ingest.judge import calls
from ingest.protocols.otlp import cut, records, wire

__all__ = ["NAME", "ROUTES", "as_event", "credentials", "judge_again", "parse", "reply"]

NAME = "otlp"
QUERY_DECIDES = True

SIGNALS = {"/v1/logs": "logs", "/v1/traces": "traces"}
ROUTES = tuple(Route("POST", path) for path in SIGNALS)
PROTOBUF = "application/x-protobuf"
SHOWN_REJECTS = 3
RPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 408: 4, 411: 3, 413: 3, 415: 3, 429: 8, 500: 13, 503: 14}
"""Numbers of `google.rpc.Code` by HTTP status, as both encodings of `google.rpc.Status` have them; 2 is UNKNOWN."""

_encode = msgspec.json.Encoder().encode
_SUCCESS = {True: Reply(200, b"", PROTOBUF), False: Reply(200, b"{}")}


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys of a request; none stands in the body."""
    return carriers.from_request(request)


def parse(request: HttpRequest, desk: Desk) -> Parsed | Refusal:
    """Reads an export of logs or spans."""
    admission = request.admission or desk.admit(credentials(request))
    if isinstance(admission, Refusal):
        return admission
    signal = SIGNALS[request.route]
    pieces = cut.cut(request.body, signal, admission, packed=_is_packed(request))
    if isinstance(pieces, Refusal):
        return pieces
    parsed = Parsed(admission, form=signal)
    records.judge(parsed, pieces, signal, request.body)
    return parsed


def reply(request: HttpRequest, result: Accepted | Refusal) -> Reply:
    """Words the answer in the encoding of the request."""
    packed = _is_packed(request)
    if isinstance(result, Refusal):
        plain = calls.answer(result)
        code, message = RPC_CODES.get(result.status, 2), f"{result.code}: {result.message}"
        if packed:
            return plain._replace(body=wire.status(code, message), content_type=PROTOBUF)
        return plain._replace(body=_encode({"code": code, "message": message}))
    if not result.rejects:
        return _SUCCESS[packed]
    said = "; ".join(f"{each.reason}: {each.detail}" for each in result.rejects[:SHOWN_REJECTS])
    if packed:
        return Reply(200, wire.partial_success(len(result.rejects), said), PROTOBUF)
    name = "rejectedLogRecords" if SIGNALS[request.route] == "logs" else "rejectedSpans"
    # 64-bit integers are text in the JSON of protobuf
    return Reply(200, _encode({"partialSuccess": {name: str(len(result.rejects)), "errorMessage": said}}))


def judge_again(parsed: Parsed, body: bytes, form: str, new_id: Callable[[], str]) -> None:
    """Judges the body of a dead letter, which is an export of one record; `form` is `logs` or `traces`."""
    pieces = cut.cut(body, form, parsed.admission, packed=body[:1] != b"{")
    if isinstance(pieces, Refusal) or len(pieces) != 1:
        calls.judge_again(parsed, body, "", new_id)
        return
    records.judge(parsed, pieces, form, body, log_id=new_id())


def as_event(body: bytes, form: str) -> bytes | None:
    """Returns the event of a dead letter, or its bytes if they make none and are text."""
    parsed = Parsed(Admission(site="", key="", kind="server", limits=cut.NO_LIMITS))
    pieces = cut.cut(body, form, parsed.admission, packed=body[:1] != b"{")
    if not isinstance(pieces, Refusal) and len(pieces) == 1:
        records.judge(parsed, pieces, form, body)
    return bytes(parsed.bodies[0]) if parsed.bodies else body


def _is_packed(request: HttpRequest) -> bool:
    return request.headers.get("content-type", "").lower().startswith(PROTOBUF)
