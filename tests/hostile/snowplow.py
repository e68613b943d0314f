"""Hostile requests to the paths of Snowplow's trackers: with a key, without one, and in every place that is decoded."""

from __future__ import annotations

import base64
import gzip
import json

from tests.hostile.edge import MIB, request
from tests.hostile.requests import KEYED, Row, row

TP2 = "POST /com.snowplowanalytics.snowplow/tp2"
IGLU = "POST /com.snowplowanalytics.iglu/v1"
REFUSED = (400, 401, 413)
EVENT = b'{"e":"pv","p":"web","tv":"t","url":"https://a.example/"}'


def packed(text: bytes) -> bytes:
    """Returns a text as trackers write it."""
    return base64.urlsafe_b64encode(text)


def one(parameter: bytes, value: bytes) -> bytes:
    """Returns a body of one self-describing event with a parameter."""
    return b'{"data":[{"e":"ue","p":"web","%b":"%b"}]}' % (parameter, value)


def described(data: bytes) -> bytes:
    """Returns a self-describing event around data."""
    return b'{"schema":"s","data":{"schema":"iglu:a/b/jsonschema/1-0-0","data":%b}}' % data


def entities(item: bytes, count: int) -> bytes:
    """Returns the wrapper of entities around many alike."""
    return b'{"schema":"s","data":[' + b",".join([item] * count) + b"]}"


def snowplow_rows() -> list[Row]:
    """All of them."""
    entity = b'{"schema":"iglu:a/b/jsonschema/1-0-0","data":1}'
    deep = b"[" * 60_000 + b"]" * 60_000
    keys = b"{" + b",".join(b'"k%d":1' % n for n in range(15_000)) + b"}"
    query = "&".join(f"k{n}=v" for n in range(1_500))
    return [
        row("tp2-events", request(TP2, b'{"data":[' + b",".join([EVENT] * 9_999) + b"]}", KEYED), 200),
        row("tp2-empty-events", request(TP2, b'{"data":[' + b"{}," * 2_700_000 + b"{}]}", KEYED), 413),
        row("tp2-broken-events", request(TP2, b'{"data":[' + b'{"e":1},' * 9_998 + b"{}]}", KEYED), 200),
        row("tp2-scalars", request(TP2, b'{"data":[' + b"1," * 4_000_000 + b"1]}", KEYED), 413),
        row("tp2-parameters", request(TP2, b'{"data":[' + keys + b"]}", KEYED), 200),
        row("tp2-almost-json", request(TP2, b'{"data":[' + b",".join([b'{"e":"pv","a":NaN}'] * 9_000) + b"]}", KEYED), 200, 400),
        row("tp2-of-a-stranger", request(TP2, gzip.compress(b'{"data":[' + b"{}," * 2_000_000 + b"{}]}"), {"Content-Encoding": "gzip"}), *REFUSED),
        row("tp2-of-a-small-stranger", request(TP2, b'{"data":[' + b"{}," * 20_000 + b"{}]}"), 401),
        row("tp2-deep", request(TP2, b'{"data":' + b"[" * (2 * MIB), KEYED), 400),
        row("tp2-deep-in-base64", request(TP2, one(b"ue_px", packed(described(deep))), KEYED), 200),
        row("tp2-deep-in-text", request(TP2, one(b"ue_pr", described(deep).replace(b'"', b'\\"')), KEYED), 200),
        row("tp2-keys-in-base64", request(TP2, one(b"ue_px", packed(described(keys))), KEYED), 200),
        row("tp2-entities", request(TP2, one(b"cx", packed(entities(entity, 3_500))), KEYED), 200),
        row("tp2-entities-of-many", request(TP2, b'{"data":[' + b",".join([b'{"e":"pv","cx":"%b"}' % packed(entities(entity, 400))] * 300) + b"]}", KEYED), 200),
        row("tp2-many-base64", request(TP2, b'{"data":[' + b",".join([b'{"e":"pv","cx":"%b"}' % (b"!" * 800)] * 9_000) + b"]}", KEYED), 200),
        row("tp2-escapes", request(TP2, one(b"ue_pr", b"\\u0000" * 40_000), KEYED), 200),
        row("tp2-query-for-many", request(f"{TP2}?{query}", b'{"data":[' + b"{}," * 9_998 + b"{}]}", KEYED), 413),
        row("tp2-long-ids", request(TP2, b'{"data":[' + json.dumps({"e": "pv", "eid": "x" * 200_000}).encode() + b"]}", KEYED), 200),
        row("tp2-schemas", request(TP2, b'{"data":[' + b",".join(one(b"ue_pr", described(b"1").replace(b"a/b", b"a/b%d" % n).replace(b'"', b'\\"'))[9:-2] for n in range(9_000)) + b"]}", KEYED), 200),
        row("tp2-cookies", request(TP2, b'{"data":[' + EVENT + b"]}", {**KEYED, "Cookie": "sp=;" * 3_000}), 200),
        row("tp2-cookies-of-blanks", request(TP2, b'{"data":[' + EVENT + b"]}", {**KEYED, "Cookie": ";" + " " * 12_000 + "sp"}), 200),
        row("tp2-urls", request(TP2, b'{"data":[{"e":"pv","url":"https://[%b"}]}' % (b"a" * 200_000), KEYED), 200),
        row("pixel-parameters", request(f"GET /i?e=pv&token=web&{query}"), 200),
        row("pixel-of-a-stranger", request(f"GET /i?e=pv&aid=nobody&{query}"), 401),
        row("pixel-deep", request("GET /i?token=web&e=ue&ue_px=" + packed(described(b"[" * 4_000 + b"]" * 4_000)).decode()), 200),
        row("pixel-paths", request("GET /" + "a." * 4_000 + "/x?token=web&e=pv"), 200),
        row("redirect-anywhere", request("GET /r/tp2?token=web&u=https://evil.example/"), 404),
        row("iglu-items", request(f"{IGLU}?schema=iglu:a/b/jsonschema/1-0-0", b"[" + b"1," * 4_000_000 + b"1]", KEYED), 413),
        row("iglu-events", request(f"{IGLU}?schema=iglu:a/b/jsonschema/1-0-0", b"[" + b"{}," * 9_998 + b"{}]", KEYED), 200),
        row("iglu-fields", request(f"{IGLU}?schema=iglu:a/b/jsonschema/1-0-0", b"a&" * 4_000_000, {**KEYED, "Content-Type": "application/x-www-form-urlencoded"}), 400),
        row("iglu-deep", request(IGLU, b'{"schema":"iglu:a/b/jsonschema/1-0-0","data":' + b"[" * 100_000, KEYED), 400),
    ]  # fmt: skip
