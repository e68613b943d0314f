"""The network user id of a request, and the cookie that carries it. Pure.

A query's `nuid` wins over the cookie; without both the id is new. `SP-Anonymous` asks for no id at all: nothing is read from the
cookie, and it ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    allowed = None if isinstance(cookie, str) or admission.kind == "server" else cookie
    held = _held(headers.get("cookie", ""), allowed.name) if allowed is not None else None
    if "sp-anonymous" in headers:
        return Visitor(ANONYMOUS, True, "" if held is None or allowed is None else _cookie(allowed, "", headers, 0))
    given = request.query.get("nuid")
    network_id = given if given and _VALUE.fullmatch(given) else held or as_uuid(desk.new_id())
    return Visitor(network_id, False, "" if allowed is None else _cookie(allowed, network_id, headers, allowed.max_age))


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


def _cookie(cookie: SnowplowCookie, value: str, headers: Mapping[str, str], max_age: float) -> str:
    domain = _domain(cookie, headers.get("origin", "")) if cookie.domains else cookie.fallback_domain or ""
    rest = _rest(domain, max_age, secure=cookie.secure, http_only=cookie.http_only, same_site=cookie.same_site)
    return f"{cookie.name}={value}{rest}"


@lru_cache(256)
def _rest(domain: str, max_age: float, *, secure: bool, http_only: bool, same_site: str) -> str:
    where = f"; Domain={domain}" if domain else ""
    flags = ("; Secure" if secure else "") + ("; HttpOnly" if http_only else "")
    return f"; Max-Age={int(max_age)}; Path=/{where}{flags}; SameSite={same_site.capitalize()}"
