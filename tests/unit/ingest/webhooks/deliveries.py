"""Deliveries to a webhook, for tests: a desk with one webhook, named `hook`, and requests to it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from ingest.contract import HttpRequest, Parsed, Refusal, Reply
from ingest.protocols import webhook
from shared.project.model import Project, Site, SiteLimits
from shared.project.webhooks import Webhook
from tests.unit.ingest.desks import CountingDesk


def desk(limits: SiteLimits | None = None, **options: Any) -> CountingDesk:
    """A desk of a project with one webhook of these options."""
    site = Site(limits=limits or SiteLimits())
    return CountingDesk(Project(sites={"shop": site}, webhooks={"hook": Webhook(site="shop", **options)}))


def delivery(
    body: bytes | str | object = b"",
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    query: str = "",
    id_: str = "hook",
) -> HttpRequest:
    """A request as the pipeline hands it over."""
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    low = {name.lower(): value for name, value in (headers or {}).items()}
    params = dict(parse_qsl(query, keep_blank_values=True))
    return HttpRequest(method, webhook.ADDRESS, {"id": id_}, params, low, data, "in.example.com", "", None, query)


def parsed(result: Parsed | Reply | Refusal) -> Parsed:
    """The result of a request that was let in."""
    assert isinstance(result, Parsed), result
    return result


def refused(result: Parsed | Reply | Refusal) -> Refusal:
    """The result of a request that was not."""
    assert isinstance(result, Refusal), result
    return result


def events(result: Parsed | Reply | Refusal) -> list[dict[str, Any]]:
    """The events of a request, as they are stored."""
    return [json.loads(bytes(body)) for body in parsed(result).bodies]
