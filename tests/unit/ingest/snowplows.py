"""Snowplow's requests for tests: trackers' parameters as bodies and queries, and what the parser makes of them."""

from __future__ import annotations

import base64
import json
from typing import Any

from ingest.contract import HttpRequest, Parsed, Refusal
from ingest.protocols import snowplow
from shared.project.model import Key, Project, Site
from shared.project.snowplow import Snowplow
from tests.unit.ingest.desks import CountingDesk

HOST = "shop.example.com"
EVENT_ID = "c6ef3124-b53a-4b13-a233-0088f79dcbcb"
PAYLOAD = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4"
PAGE_VIEW = {
    "e": "pv", "eid": EVENT_ID, "p": "web", "tv": "js-4.10.1", "tna": "sp", "aid": "shop", "dtm": "1767225600123",
    "stm": "1767225601000", "url": "https://shop.example.com/a/b?x=1&utm_source=news#top", "page": "Shop",
    "refr": "https://www.google.com/search?q=shoes", "lang": "de-DE", "tz": "Europe/Berlin", "res": "1920x1080",
    "vp": "900x700", "ds": "900x3000", "cs": "UTF-8", "cookie": "1", "cd": "24", "duid": "d-1", "sid": "s-1", "vid": "3",
}  # fmt: skip


def desk(**options: Any) -> CountingDesk:
    """A desk whose site `shop` has options for Snowplow."""
    shop = Site(keys=[Key(id="web"), Key(id="api", kind="server", secret="s3cret")], domains=[HOST], **options)
    return CountingDesk(Project(sites={"shop": shop}))


def snow(**options: Any) -> CountingDesk:
    """A desk whose site has these options under `snowplow`."""
    return desk(snowplow=Snowplow(**options))


def payload(*events: Any) -> bytes:
    """A body of `tp2`."""
    return json.dumps({"schema": PAYLOAD, "data": list(events)}).encode()


def coded(value: Any) -> str:
    """A value as trackers write it in base64: of the URL's alphabet, without padding."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def described(schema: str, data: Any) -> dict[str, Any]:
    """A self-describing event in its wrapper."""
    wrapper = "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0"
    return {"schema": wrapper, "data": {"schema": schema, "data": data}}


def entities(*each: tuple[str, Any]) -> dict[str, Any]:
    """Entities in their wrapper."""
    wrapper = "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-1"
    return {"schema": wrapper, "data": [{"schema": schema, "data": data} for schema, data in each]}


def post(body: bytes, *, route: str = snowplow.TP2, query: dict[str, str] | None = None, **headers: str) -> HttpRequest:
    """A POST to the site's domain; `__` in a header's name is `-`."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpRequest("POST", route, {}, query or {}, names, body, HOST, "")


def get(query: dict[str, str], *, route: str = snowplow.PIXEL, **headers: str) -> HttpRequest:
    """A GET to the site's domain."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpRequest("GET", route, {}, query, names, b"", HOST, "")


def parsed(request: HttpRequest, of: CountingDesk | None = None) -> Parsed:
    """What the parser makes of a request that it takes."""
    result = snowplow.parse(request, of or CountingDesk())
    assert isinstance(result, Parsed), result
    return result


def refused(request: HttpRequest, of: CountingDesk | None = None) -> Refusal:
    """Why the parser refuses a request."""
    result = snowplow.parse(request, of or CountingDesk())
    assert isinstance(result, Refusal), result
    return result


def bodies(result: Parsed) -> list[dict[str, Any]]:
    """The canonical events."""
    return [json.loads(bytes(body)) for body in result.bodies]


def one(request: HttpRequest, of: CountingDesk | None = None) -> dict[str, Any]:
    """The canonical event of a request of one."""
    result = parsed(request, of)
    assert result.rejects == []
    (event,) = bodies(result)
    return event
