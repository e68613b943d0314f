"""A desk and a request for tests of protocols: the real index of keys over a small project, and ids that count."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ingest.browser.pages import SitePages, pages_of
from ingest.clients.keys import KeyIndex
from ingest.contract import Admission, Credential, HttpRequest, Refusal
from ingest.lookups import Seen
from shared.project.model import Key, Project, Site, SiteLimits
from shared.project.webhooks import Webhook
from shared.reading.units import ByteSize

NOW = 1_790_000_000.0
"""The time of a desk."""


def project(**limits: Any) -> Project:
    """A project with a site `shop` (keys `web`, `api` with the secret `s3cret`), a site `other` (key `other`), and the open webhook `x`."""
    sizes = {name: ByteSize(value) if name.endswith("bytes") else value for name, value in limits.items()}
    shop = Site(
        keys=[Key(id="web"), Key(id="api", kind="server", secret="s3cret")],
        domains=["shop.example.com"],
        limits=SiteLimits(**sizes),
    )
    return Project(
        sites={"shop": shop, "other": Site(keys=[Key(id="other")], require_id=False)},
        webhooks={"x": Webhook(site="other", type="open")},
    )


class CountingDesk:
    """Admits by the real index; new ids are `new-1`, `new-2`, …"""

    micro: Seen | None = None

    def __init__(self, of: Project | None = None) -> None:
        of = of or project()
        self._keys = KeyIndex(of)
        self._pages = pages_of(of)
        self._numbers = itertools.count(1)
        self.disagreements = 0
        self.time = NOW

    def admit(self, credentials: Sequence[Credential]) -> Admission | Refusal:
        found = self._keys.admit(credentials)
        if isinstance(found, Refusal):
            return found
        self.disagreements += found[1]
        return found[0]

    def new_id(self) -> str:
        return f"new-{next(self._numbers)}"

    def pages(self, site: str) -> SitePages:
        return self._pages[site]

    def now(self) -> float:
        return self.time


def post(
    route: str, body: bytes | str, *, headers: dict[str, str] | None = None, query: dict[str, str] | None = None, host: str = ""
) -> HttpRequest:
    """A POST request with a decoded body."""
    data = body.encode() if isinstance(body, str) else body
    return HttpRequest("POST", route, {}, query or {}, headers or {}, data, host, "")


def get(route: str, *, params: dict[str, str] | None = None, query: dict[str, str] | None = None, host: str = "") -> HttpRequest:
    """A GET request."""
    return HttpRequest("GET", route, params or {}, query or {}, {}, b"", host, "https://in.example.com")
