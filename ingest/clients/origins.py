"""The web origins that may send, and the CORS headers of answers to them. Pure.

A site that lists no origins, or `*`, takes events from any page; the origin is then echoed, without credentials. A listed origin
is echoed with credentials allowed, `https://*.example.com` stands for every subdomain. An answer always varies by origin.

Browsers send no `Origin` with a request for an image. Then `Referer` names the page. If that is missing too, `Sec-Fetch-Site`
tells a page that hides its address from a sender that is no page, such as a mail program or a server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from shared.project.checks.sites import ANY_ORIGIN

VARY: Mapping[str, str] = MappingProxyType({"Vary": "Origin"})

MAX_AGE_SECONDS = 86_400
"""Chromium honours two hours, Firefox a day."""

ALLOWED_HEADERS = (
    "authorization, content-type, content-encoding, anonymousid, sentat, x-retry-count, x-write-key, sp-anonymous, "
    "rsa-retry-attempt, rsa-since-last-attempt, rsa-since-first-attempt, rsa-retry-reason, rsa-recovered"
)

_REFERER = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]+", re.IGNORECASE)
_TOKEN = re.compile(r"[a-z0-9-]{1,64}")


class Origins:
    """The origins of one site, or of all sites together if the site is unknown (preflight requests carry no key)."""

    def __init__(self, listed: Sequence[str], *, any_origin: bool | None = None) -> None:
        self._any = (not listed or ANY_ORIGIN in listed) if any_origin is None else any_origin
        listed = [origin for origin in listed if origin != ANY_ORIGIN]
        self._exact = frozenset(origin.lower().rstrip("/") for origin in listed if "*" not in origin)
        self._patterns = tuple(
            re.compile(re.escape(origin.lower().rstrip("/")).replace(r"\*", r"[a-z0-9.-]+")) for origin in listed if "*" in origin
        )

    def lists(self, origin: str) -> bool:
        """Whether the origin is named, so that it may send credentials."""
        lower = origin.lower()
        return lower in self._exact or any(pattern.fullmatch(lower) for pattern in self._patterns)

    def allows(self, origin: str) -> bool:
        """Whether pages of the origin may send events."""
        return self._any or self.lists(origin)

    def stranger(self, headers: Mapping[str, str]) -> str | None:
        """Returns the page that sent a request, if the page may not send; None if it may."""
        if self._any:
            return None
        origin = headers.get("origin")
        if not origin:
            found = _REFERER.match(headers.get("referer", ""))
            if found:
                origin = found[0]
            elif headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
                return None
            else:
                origin = "a page that hides its address"
        return None if self.lists(origin) else origin

    def headers(self, origin: str, *, cookies: bool = False) -> dict[str, str]:
        """Returns the headers of an answer to a request from `origin`.

        Args:
            origin: the page's.
            cookies: pages send this protocol cookies: an origin that may send at all may send them. Its answers tell a page nothing.
        """
        if not self.allows(origin):
            return {"Vary": "Origin"}
        headers = {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "Retry-After, X-Request-Id",
            "Vary": "Origin",
        }
        if cookies or self.lists(origin):
            headers["Access-Control-Allow-Credentials"] = "true"
        return headers


def preflight_headers(origins: Origins, request_headers: Mapping[str, str], *, cookies: bool = False) -> dict[str, str]:
    """Returns the headers that answer OPTIONS; `cookies` as `Origins.headers` has it."""
    origin = request_headers.get("origin", "")
    headers = origins.headers(origin, cookies=cookies) if origin else {"Vary": "Origin"}
    if "Access-Control-Allow-Origin" in headers:
        asked = request_headers.get("access-control-request-headers", "")
        extra = [name.strip() for name in asked.lower().split(",") if _TOKEN.fullmatch(name.strip())]
        known = ALLOWED_HEADERS.split(", ")
        headers["Access-Control-Allow-Headers"] = ", ".join([*known, *(name for name in extra[:20] if name not in known)])
        headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
        headers["Access-Control-Max-Age"] = str(MAX_AGE_SECONDS)
        headers["Vary"] = "Origin, Access-Control-Request-Headers"
        if request_headers.get("access-control-request-private-network") == "true":
            headers["Access-Control-Allow-Private-Network"] = "true"
    return headers
