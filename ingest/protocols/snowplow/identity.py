"""The network user id of a request, and the cookie that carries it. Pure.

A query's `nuid` wins over the cookie; without both the id is new. `SP-Anonymous` asks for no id at all: nothing is read from the
cookie, and it ends.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from ingest.contract import Admission, Desk, HttpRequest
from shared.project.snowplow import SnowplowCookie

ANONYMOUS = "00000000-0000-0000-0000-000000000000"

_VALUE = re.compile(r"[!#-+.-:<-\[\]-~-]{1,128}", re.ASCII)
"""What a cookie may hold, without commas, quotes, blanks and backslashes."""
_HOST = re.compile(r"https?://([a-z0-9_.-]{1,253})(?::\d{1,5})?", re.IGNORECASE)


class Visitor(NamedTuple):
    """The sender of a request. `set_cookie` is the value of the header, "" for none."""

    network_id: str
    is_anonymous: bool
    set_cookie: str = ""


def visitor_of(request: HttpRequest, admission: Admission, desk: Desk) -> Visitor:
    """Returns who sends a request, and the cookie that goes with the answer."""
    headers = request.headers
    cookie = admission.snowplow.cookie
    held = None if isinstance(cookie, str) or admission.kind == "server" else _held(headers.get("cookie", ""), cookie.name)
    if "sp-anonymous" in headers:
        expired = (
            "" if held is None or isinstance(cookie, str) else _cookie(cookie, "", _domain(cookie, headers.get("origin", "")), 0)
        )
        return Visitor(ANONYMOUS, True, expired)
    given = request.query.get("nuid")
    network_id = given if given and _VALUE.fullmatch(given) else held or as_uuid(desk.new_id())
    if isinstance(cookie, str) or admission.kind == "server":
        return Visitor(network_id, False)
    domain = _domain(cookie, headers.get("origin", ""))
    return Visitor(network_id, False, _cookie(cookie, network_id, domain, int(cookie.max_age)))


def as_uuid(id_: str) -> str:
    """Returns an id of 32 digits in the form that columns of Snowplow's tables have; others as they are."""
    return f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:]}" if len(id_) == 32 else id_


@lru_cache(64)
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|;)\s*{re.escape(name)}=\"?([^;\"]*)")


def _held(cookies: str, name: str) -> str | None:
    if name not in cookies:
        return None
    if cookies.startswith(f"{name}=") and '"' not in cookies:  # it stands first
        value = cookies[len(name) + 1 :].partition(";")[0]
        return value if _VALUE.fullmatch(value) else None
    found = _pattern(name).search(cookies)
    return found[1] if found and _VALUE.fullmatch(found[1]) else None


def _domain(cookie: SnowplowCookie, origin: str) -> str:
    found = _HOST.match(origin) if cookie.domains and origin else None
    host = found[1].lower() if found else ""
    for domain in cookie.domains if host else ():
        if host == domain.lower() or host.endswith(f".{domain.lower()}"):
            return domain
    return cookie.fallback_domain or ""


def _cookie(cookie: SnowplowCookie, value: str, domain: str, max_age: int) -> str:
    return f"{cookie.name}={value}; Max-Age={max_age}; Path=/{_rest(cookie, domain)}"


def _rest(cookie: SnowplowCookie, domain: str) -> str:
    secure, http_only = "; Secure" if cookie.secure else "", "; HttpOnly" if cookie.http_only else ""
    where = f"; Domain={domain}" if domain else ""
    return f"{where}{secure}{http_only}; SameSite={cookie.same_site.capitalize()}"
