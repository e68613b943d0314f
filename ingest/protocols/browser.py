"""What Penstock's own script of browsers loads and sends; docs/protocols/browser.md.

`/p.js` is the script, `/p.mjs` the same as a module, `/p/m/{file}` its parts that few pages need, `/p/d/{file}` the scripts of device
destinations. `/p/s/{key}` is the settings document of a site, `/p/e` takes events as `/v1/batch` does, and `/p/i` sets the cookie of the
anonymous id, because browsers forget a script's cookie sooner than a server's. A site may have all of them under a path of its
own as well, which `ingest/http/routes.py` finds. Segment's snippet finds the script where it looks for its own.
"""

from __future__ import annotations

import re

import msgspec

from ingest.browser import assets
from ingest.clients import carriers
from ingest.contract import Accepted, Credential, Desk, HttpRequest, Parsed, Refusal, Reply, Route
from ingest.judge import calls
from ingest.judge.calls import as_event, judge_again

__all__ = ["NAME", "ROUTES", "as_event", "credentials", "judge_again", "parse", "reply"]

NAME = "browser"

SCRIPT = "/p.js"
MODULE = "/p.mjs"
TYPES = "/p.d.ts"
SNIPPET = "/analytics.js/v1/{key}/analytics.min.js"
PART = "/p/m/{file}"
DEVICE = "/p/d/{file}"
SETTINGS = "/p/s/{key}"
EVENTS = "/p/e"
COOKIE = "/p/i"
ROBOTS = "/robots.txt"
ROUTES = (
    *(Route("GET", path) for path in (SCRIPT, MODULE, TYPES, SNIPPET, PART, DEVICE, SETTINGS, ROBOTS)),
    Route("POST", EVENTS),
    Route("POST", COOKIE),
)

COOKIE_NAME = "penstock_id"
_ID = re.compile(r"[A-Za-z0-9._~-]{1,100}")


class _Wish(msgspec.Struct, rename="camel"):
    """The body of a request for a cookie."""

    anonymous_id: str
    write_key: str | None = None


_NO_ROBOTS = Reply(200, b"User-agent: *\nDisallow: /\n", "text/plain", {"Cache-Control": "public, max-age=86400"})
"""Crawlers that run pages or follow links of mails would count as visitors."""
_decode_wish = msgspec.json.Decoder(_Wish).decode


def credentials(request: HttpRequest) -> list[Credential]:
    """Returns the keys outside the body."""
    if request.route == SETTINGS:
        return [Credential("path", request.params["key"])]
    return carriers.from_request(request)


def parse(request: HttpRequest, desk: Desk) -> Parsed | Reply | Refusal:
    """Reads any request of this protocol."""
    match request.route:
        case "/p/e":
            return calls.read_calls(request, desk)
        case "/p.js" | "/analytics.js/v1/{key}/analytics.min.js":
            return assets.script().reply(request.headers)
        case "/p/s/{key}":
            return _settings(request, desk)
        case "/p/i":
            return _cookie(request, desk)
        case "/p.mjs":
            return assets.module().reply(request.headers)
        case "/p.d.ts":
            return assets.types().reply(request.headers)
        case "/robots.txt":
            return _NO_ROBOTS
        case _:
            return _part(request)


def reply(request: HttpRequest, result: Accepted | Refusal) -> Reply:  # noqa: ARG001  # the contract
    """Words the answer."""
    return calls.answer(result)


def _part(request: HttpRequest) -> Reply | Refusal:
    name = request.params["file"]
    versioned = request.query.get("v") == assets.version()
    found = assets.part(name, versioned) if request.route == PART else assets.device(name, versioned)
    if found is None:
        return Refusal(404, "unknown_path", f"there is no file {name[:100]!r} here")
    return found.reply(request.headers)


def _settings(request: HttpRequest, desk: Desk) -> Reply | Refusal:
    admission = desk.admit(credentials(request))
    if isinstance(admission, Refusal):
        return admission
    return desk.pages(admission.site).settings.reply(request.headers)


def _cookie(request: HttpRequest, desk: Desk) -> Reply | Refusal:
    """Sets the cookie of the anonymous id for the domain that the site names."""
    try:
        wish = _decode_wish(request.body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        return Refusal(400, "invalid_json", f'expected {{"writeKey": …, "anonymousId": …}}: {exc}')
    found = credentials(request)
    if wish.write_key:
        found.append(Credential("body", wish.write_key))
    admission = desk.admit(found)
    if isinstance(admission, Refusal):
        return admission
    if not _ID.fullmatch(wish.anonymous_id):
        return admission.refuse(400, "invalid_json", "expected `anonymousId` to be 1 to 100 of A-Z, a-z, 0-9 and ._~-")
    pages = desk.pages(admission.site)
    stranger = pages.origins.stranger(request.headers)
    if stranger is not None:
        return admission.refuse(403, "origin_not_allowed", f"pages of {stranger[:200]!r} may not send to this site")
    if pages.cookie_domain is None:
        return admission.refuse(404, "unknown_path", "the site sets no cookie; set `browser.cookie_domain`")
    secure = "; Secure" if request.headers.get("origin", "").startswith("https:") else ""
    cookie = (
        f"{COOKIE_NAME}={wish.anonymous_id}; Max-Age={pages.cookie_days * 86_400}; Domain={pages.cookie_domain}; Path=/; "
        f"SameSite=Lax{secure}"
    )
    return calls.SUCCESS._replace(headers={"Set-Cookie": cookie, "Cache-Control": "no-store"})
