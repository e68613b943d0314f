"""The event in the address of an image: `data`, completed by the other parameters and by what the request tells of the page. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ingest.judge import pixels
from ingest.judge.forms.rewrite import Members, members_of

ASIDE = frozenset({"data", "api_key", "writeKey", "writekey", "token", "ip_policy", "cookie_policy"})
"""Parameters that are no members of the event. Parameters that begin with `p_` are none either; they name a key."""
SOURCE = "jitsu_gif"
VISITOR = re.compile(r"(?:^|;)\s*__eventn_id=([A-Za-z0-9._~%-]{1,200})\s*(?:;|$)")
"""The cookie in which classic Jitsu's script keeps its anonymous id."""

_encode = msgspec.json.Encoder().encode


def body_of(query: Mapping[str, str], headers: Mapping[str, str]) -> bytes:
    """Returns the body of the event; what cannot be read as an object comes as it is."""
    beside = pixels.unflatten({name: value for name, value in query.items() if name not in ASIDE and not name.startswith("p_")})
    data = query.get("data")
    body = b"" if data is None else pixels.decode_data(data)
    members = members_of(body)
    if not members and body:
        return body
    own: dict[str, Any] = {**members}
    if "api_key" not in own and "token" in own:  # the key may stand in `data` under this name too
        own["api_key"] = own.pop("token")
    event = {**own, **{name: _completed(members, name, value) for name, value in beside.items()}}
    if not event:
        return b"{}"
    event.setdefault("src", SOURCE)
    nested = _object(event.get("eventn_ctx"))
    if nested:
        return _encode({**event, "eventn_ctx": _seen(nested, query, headers)})
    return _encode(_seen(event, query, headers))


def _completed(members: Members, name: str, value: Any) -> Any:
    """Returns a member of the parameters, and what `data` says of an object of the same name."""
    inner = members_of(members.get(name)) if type(value) is dict else {}
    return {**inner, **{key: _completed(inner, key, each) for key, each in value.items()}} if inner else value


def _seen(about: Mapping[str, Any], query: Mapping[str, str], headers: Mapping[str, str]) -> dict[str, Any]:
    """Adds the page that shows the image and the visitor of its cookie, where the event does not name them."""
    found: dict[str, Any] = {}
    referer = headers.get("referer", "")
    if referer and "url" not in about:
        try:
            parts = urlsplit(referer)
        except ValueError:
            parts = urlsplit("")
        if parts.hostname:
            found = {"url": referer, "doc_host": parts.netloc, "doc_path": parts.path, "doc_search": parts.query}
    cookie = VISITOR.search(headers.get("cookie", "")) if query.get("cookie_policy") != "strict" else None
    user = _object(about.get("user", {}))
    if cookie and user is not None and "anonymous_id" not in user:
        return {**found, **about, "user": {**user, "anonymous_id": cookie[1]}}
    return {**found, **about}


def _object(value: Any) -> dict[str, Any] | None:
    """Returns the members of an object, built or not; None for another value."""
    if isinstance(value, msgspec.Raw):
        return {**members_of(value)} if bytes(value)[:1] == b"{" else None
    return value if type(value) is dict else None
