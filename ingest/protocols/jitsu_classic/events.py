"""A classic event as a canonical one. Pure.

The classic form is flat: what the page is (`url`, `doc_path`), who the user is (`user`), when (`utc_time`) and the properties stand
side by side. SDKs in compatibility mode put all but the properties into `eventn_ctx`. Members that say the same in both forms move
to their place in the canonical event, and `shared/events/classic.py` moves them back; all others are properties.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ingest.judge.forms.rewrite import Members, members_of, text_of_member
from ingest.judge.ids import is_visible
from ingest.judge.mend import Fault
from shared.events import classic
from shared.events.outcome import DeadReason

IDENTIFY = frozenset({"user_identify", "identify"})
PAGE = frozenset({"pageview", "page"})
OF_SENDER = ("api_key", "src", "event_type", "source_ip", "anon_ip", "eventn_ctx", "eventn_ctx_event_id")
"""Members at the top in both spellings."""
OF_CONTEXT = frozenset(
    {"event_id", "user", "utc_time", "utm", "ids", "click_id", "screen_resolution", "vp_size", *classic.PAGE, *classic.CONTEXT}
)
_OF_BOTH = OF_CONTEXT.union(OF_SENDER)
_OBJECTS = ("user", "utm", *classic.IDS)
_IDS = frozenset({"id", "anonymous_id"})
"""Members of `user` that `as_classic` makes of the canonical ids."""
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


def to_event(members: Members) -> dict[str, Any] | Fault:
    """Returns the canonical event of a classic one."""
    if not members:
        return Fault(DeadReason.MISSING_TYPE, "the event has no members")
    name = text_of_member(members.get("event_type"))
    named = is_visible(name)
    nested = members_of(members.get("eventn_ctx"))
    about: Members = nested or members
    user = members_of(about.get("user"))
    kind = "identify" if name in IDENTIFY else "page" if name in PAGE else "track"
    event: dict[str, Any] = {"type": kind}
    if kind == "track":
        event["event"] = members["event_type"] if named else classic.UNNAMED
    given = (
        ("messageId", _first(about, "event_id") or _first(members, "eventn_ctx_event_id")),
        ("userId", _first(user, "internal_id", "id", "email")),
        ("anonymousId", _first(user, "anonymous_id", "hashed_anonymous_id")),
        ("timestamp", about.get("utc_time")),
    )
    event.update({member: value for member, value in given if value is not None})
    context = _context(members, about)
    own: dict[str, Any] = {} if kind == "track" and named else {"event_type": members.get("event_type")}
    own |= _odd(members, about, context)
    if own:
        context["jitsu"] = own
    said = (given[1][1], given[2][1])
    traits: Members = {}
    if len(user) != len(said) - said.count(None) or not user.keys() <= _IDS:  # else all of it is said
        traits = {
            name: value
            for name, value in user.items()
            if name not in _IDS or not (bytes(value) == b'""' or any(value is each for each in said))
        }
    if traits and kind == "identify":
        event["traits"] = traits
    elif traits:
        context["traits"] = traits
    event["context"] = context
    known = _OF_BOTH if about is members else OF_SENDER
    properties = {name: value for name, value in members.items() if name not in known}
    if properties:
        event["properties"] = properties
    return event


def _context(members: Members, about: Members) -> dict[str, Any]:
    context: dict[str, Any] = {ours: about[name] for name, ours in classic.CONTEXT.items() if name in about}
    page = {ours: about[name] for name, ours in classic.PAGE.items() if name in about}
    if page:
        context["page"] = page
    if "source_ip" in members:
        context["ip"] = members["source_ip"]
    if "screen_resolution" in about or "vp_size" in about:
        screen = {
            **_size(about.get("screen_resolution"), "width", "height"),
            **_size(about.get("vp_size"), "innerWidth", "innerHeight"),
        }
        if screen:
            context["screen"] = screen
    utm = members_of(about.get("utm"))
    if utm:
        context["campaign"] = {classic.CAMPAIGN.get(name, name): value for name, value in utm.items()}
    for name, ours in classic.IDS.items():
        if members_of(about.get(name)):
            context[ours] = about[name]
    source = text_of_member(members.get("src"))
    if source:
        context["library"] = {"name": source}
    if about is not members:
        context.update({name: value for name, value in about.items() if name not in OF_CONTEXT and name not in context})
    return context


def _odd(members: Members, about: Members, context: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """Returns what stands in a member that has a place in the canonical event, in a form that this place does not take."""
    found: dict[str, msgspec.Raw] = {}
    for name in _OBJECTS:
        value = about.get(name)
        if value is not None and bytes(value)[:1] != b"{":
            found[name] = value
    if "screen_resolution" in about or "vp_size" in about:
        sizes = context.get("screen", {})
        for name, member in (("screen_resolution", "width"), ("vp_size", "innerWidth")):
            if name in about and member not in sizes:
                found[name] = about[name]
    if "eventn_ctx" in members and about is members:
        found["eventn_ctx"] = members["eventn_ctx"]
    if "src" in members and "library" not in context:
        found["src"] = members["src"]
    return {name: value for name, value in found.items() if bytes(value) not in (b"null", b'""', b"{}")} if found else found


def _first(members: Members, *names: str) -> msgspec.Raw | None:
    """Returns the first member that says anything."""
    for name in names:
        value = members.get(name)
        if value is not None and bytes(value) not in (b'""', b"null"):
            return value
    return None


def _size(raw: msgspec.Raw | None, width: str, height: str) -> dict[str, int]:
    found = _SIZE.fullmatch(text_of_member(raw))
    return {width: int(found[1]), height: int(found[2])} if found else {}
