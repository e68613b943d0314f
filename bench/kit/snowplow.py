"""Requests of Snowplow's trackers: a page view of a browser with one entity, about 1,100 bytes, by POST or in the address of a GET."""

from __future__ import annotations

import base64
import random
import time
import uuid
from urllib.parse import urlencode

import msgspec

PATH = "/com.snowplowanalytics.snowplow/tp2"
KINDS = ("snowplow", "snowplow_get")
_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0 Safari/537.36"
_encode = msgspec.json.Encoder().encode


def parameters(chance: random.Random) -> dict[str, str]:
    """Returns the parameters of a page view."""
    now = int(time.time() * 1000)  # a clock that is far off costs a warning each time
    entity = {"schema": "iglu:com.snowplowanalytics.snowplow/web_page/jsonschema/1-0-0", "data": {"id": _uuid(chance)}}
    contexts = {"schema": "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-0", "data": [entity]}
    return {
        "e": "pv", "url": f"https://shop.example.com/p/{chance.randrange(5000)}?utm_source=news&utm_medium=cpc", "page": "Shoes",
        "refr": "https://www.google.com/", "eid": _uuid(chance), "tv": "js-4.10.1", "tna": "sp", "aid": "shop", "p": "web",
        "cookie": "1", "cs": "UTF-8", "lang": "en-GB", "res": "1920x1080", "cd": "24", "tz": "Europe/London", "dtm": str(now),
        "stm": str(now + 333), "vp": "1200x900", "ds": "1200x4000", "vid": "3", "sid": _uuid(chance), "duid": _uuid(chance),
        "co": _encode(contexts).decode(),
    }  # fmt: skip


def requests_of(kind: str, count: int, per_request: int, host: str) -> list[bytes]:
    """Returns `count` whole HTTP requests of `per_request` events; the host's name selects the site."""
    chance = random.Random(1)
    head = f"Host: {host}\r\nUser-Agent: {_AGENT}\r\nCookie: sp={_uuid(chance)}\r\n"
    made: list[bytes] = []
    for _ in range(count):
        if kind == "snowplow_get":
            event = parameters(chance)
            event["cx"] = base64.urlsafe_b64encode(event.pop("co").encode()).decode().rstrip("=")
            made.append(f"GET /i?{urlencode(event)} HTTP/1.1\r\n{head}\r\n".encode())
            continue
        schema = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
        body = _encode({"schema": schema, "data": [parameters(chance) for _ in range(per_request)]})
        kinds = f"Content-Type: application/json; charset=UTF-8\r\nContent-Length: {len(body)}\r\n"
        made.append(f"POST {PATH} HTTP/1.1\r\n{head}{kinds}\r\n".encode() + body)
    return made


def _uuid(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))
