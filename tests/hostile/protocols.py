"""Hostile requests to the paths of other protocols than Segment's, with a key and without."""

from __future__ import annotations

import base64
import gzip
import json

from tests.hostile.edge import MIB, request
from tests.hostile.requests import KEYED, Row, row
from tests.hostile.snowplow import snowplow_rows
from tests.support import dear_bodies

FORM = {"Content-Type": "multipart/form-data; boundary=x"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
REFUSED = (400, 401, 413)


def single_rows() -> list[Row]:
    """The paths of one event or a batch: RudderStack's, Jitsu's, classic Jitsu's."""
    rows: list[Row] = []
    bodies = dear_bodies.JSON
    names = list(bodies)
    paths = ("/beacon/v1/batch", "/api/s/s2s/batch", "/api/s/track", "/api/v1/event", "/api/v1/events/dry-run", "/api/v1/segment")
    for number, path in enumerate(paths):
        # two of the dearest bodies for each path: all paths share one reader, and the rest is asked of Segment's
        for name in (names[number % len(names)], names[(number + 5) % len(names)]):
            packed = gzip.compress(bodies[name](), 1)
            rows.append(
                row(f"{path}-{name}", request(f"POST {path}", packed, {**KEYED, "Content-Encoding": "gzip"}), 200, *REFUSED)
            )
        bare = request(f"POST {path}", gzip.compress(b"[" + b'{"event_type":"a"},' * 400_000, 1), {"Content-Encoding": "gzip"})
        rows.append(row(f"{path}-of-a-stranger", bare, *REFUSED))
    return rows


def classic_rows() -> list[Row]:
    """Events that are rewritten, and files of them."""
    event = b'{"event_type":"a","user":{"id":"u"}}'
    bulk = "POST /api/v1/events/bulk"
    keys = b"{" + b",".join(b'"k%d":%d' % (n, n) for n in range(20_000)) + b"}"
    return [
        row("classic-events", request("POST /api/v1/event", b"[" + b",".join([event] * 9_999) + b"]", KEYED), 200),
        row("classic-ones", request("POST /api/v1/event", b"[" + b"1," * 4_000_000 + b"1]", KEYED), 413),
        row("classic-keys", request("POST /api/v1/event", b'{"event_type":"a","eventn_ctx":' + keys + b"}", KEYED), 200, 413),
        row("classic-deep", request("POST /api/v1/event", b'{"event_type":"a","user":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001, KEYED), 200, 400),
        row("classic-path", request("POST /api." + "a" * 10_000, event, KEYED), 200),
        row("classic-pixel", request("GET /api/v1/p.gif?token=web&data=" + base64.urlsafe_b64encode(event * 300).decode()), 200),
        row("classic-keys-of-queries", request("POST /api/v1/event?" + "&".join(f"p_{n}=k" for n in range(1_000)), event), 401),
        row("bulk-lines", request(bulk, b"\n" * (8 * MIB), KEYED), 413),
        row("bulk-events", request(bulk, b"\n".join([event] * 9_999), KEYED), 200),
        row("bulk-broken-lines", request(bulk, b"\n".join([b'{"a":'] * 9_999), KEYED), 200),
        row("bulk-one-line", request(bulk, b'{"event_type":"a","b":"' + b"x" * (8 * MIB - 100) + b'"}', KEYED), 200),
        row("bulk-bomb", request(bulk, gzip.compress(b" " * (64 * MIB)), KEYED), 413),
        row("bulk-bomb-in-form", request(bulk, b'--x\r\na; name="file"\r\n\r\n' + gzip.compress(b" " * (64 * MIB)) + b"\r\n--x--", {**KEYED, **FORM}), 413),
        row("bulk-bomb-of-a-stranger", request(bulk, gzip.compress(b" " * (64 * MIB)), {}), *REFUSED),
        row("bulk-members", request(bulk, b'--x\r\na; name="file"\r\n\r\n' + gzip.compress(b"") * 20_000 + b"\r\n--x--", {**KEYED, **FORM}), 400),
        row("bulk-parts", request(bulk, b"--x\r\n\r\na\r\n" * 700_000 + b"--x--", {**KEYED, **FORM}), 400),
        row("bulk-no-part", request(bulk, b"\r\n--" * 2_000_000, {**KEYED, **FORM}), 400),
        row("dry-run-keys", request("POST /api/v1/events/dry-run", b"[" + b",".join([b'{"event_type":"a","user":{"id":"u"},' + keys[1:60_000].rpartition(b",")[0] + b"}"] * 100) + b"]", KEYED), 200, 413),
    ]  # fmt: skip


def varint(value: int) -> bytes:
    """Returns a number as protobuf writes lengths."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def held(number: int, value: bytes) -> bytes:
    """Returns a field of protobuf."""
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def otlp_rows() -> list[Row]:
    """Exports in protobuf and JSON that are more than they seem."""
    post, keyed = "POST /v1/logs", {**KEYED, **PROTOBUF}
    deep = b""
    for _ in range(60):
        deep = held(5, held(1, deep))  # an array in an array
    record = held(1, held(2, held(2, held(5, deep))))
    attribute = held(6, held(1, b"k") + held(2, held(1, b"v")))
    large = held(1, held(1, held(1, held(1, b"a") + held(2, held(1, b"x" * 200_000)))) + held(2, b"\x12\x00" * 9_000))
    spans = json.dumps(
        {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "0a" * 16, "spanId": "0b" * 8}] * 9_999}]}]}
    ).encode()
    return [
        row("otlp-empty-records", request(post, held(1, held(2, b"\x12\x00" * 4_000_000)), keyed), 413),
        row("otlp-empty-resources", request(post, b"\x0a\x00" * 4_000_000, keyed), 200, 400, 413),
        row("otlp-unknown-fields", request(post, b"\x08\x00" * 4_000_000, keyed), 400),
        row("otlp-endless-number", request(post, b"\xff" * (8 * MIB), keyed), 400),
        row("otlp-deep", request(post, record, keyed), 200),
        row("otlp-attributes", request(post, held(1, held(2, held(2, attribute * 25_000))), keyed), 200),
        row("otlp-empty-attributes", request(post, held(1, held(2, held(2, b"\x32\x00" * 120_000) * 30)), keyed), 200),
        row("otlp-empty-resource-attributes", request(post, held(1, held(1, b"\x0a\x00" * 4_000_000) + held(2, b"\x12\x00")), keyed), 200),
        row("otlp-large-resource", request(post, large, keyed), 413),
        row("otlp-of-a-stranger", request(post, gzip.compress(b"\x0a\x00" * 4_000_000), {**PROTOBUF, "Content-Encoding": "gzip"}), *REFUSED),
        row("otlp-json-records", request("POST /v1/traces", spans, KEYED), 200),
        row("otlp-json-empty", request(post, b'{"resourceLogs":[' + b"{}," * 2_700_000 + b"{}]}", KEYED), 413),
        row("otlp-json-deep", request(post, b'{"resourceLogs":[{"resource":' + b'{"a":' * 100_000, KEYED), 400),
        row("otlp-json-body", request(post, b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":' + b'{"arrayValue":{"values":[' * 5_000 + b"{}" + b"]}}" * 5_000 + b"}]}]}]}", KEYED), 200, 400),
    ]  # fmt: skip


def protocol_rows() -> list[Row]:
    """All of them."""
    return [*single_rows(), *classic_rows(), *otlp_rows(), *snowplow_rows()]
