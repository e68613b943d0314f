"""A site's options for Snowplow's trackers (docs/protocols/snowplow.md)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from shared.reading.units import Duration

ANY_SUBDOMAIN = "*."
"""Begins a host that stands for all its subdomains."""


class SnowplowCookie(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cookie with the network user id."""

    name: Annotated[str, Meta(description="name of the cookie")] = "sp"
    domains: Annotated[
        list[str],
        Meta(description="domains to set it for: the first that is the host of the page's origin, or a parent of that host"),
    ] = []
    fallback_domain: Annotated[str | None, Meta(description="domain for all other pages; none: the host of the edge alone")] = (
        None
    )
    max_age: Annotated[Duration, Meta(description="how long browsers keep it after the last event")] = field(
        default_factory=lambda: Duration(365 * 86_400)
    )
    secure: Annotated[bool, Meta(description="true: browsers send it over HTTPS only, and to localhost")] = True
    http_only: Annotated[bool, Meta(description="true: scripts of the page cannot read it")] = True
    same_site: Annotated[
        Literal["none", "lax", "strict"], Meta(description="`none` needs `secure`; it lets pages of other domains send it")
    ] = "none"


class Snowplow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a site takes events of Snowplow's trackers."""

    cookie: Annotated[
        SnowplowCookie | Literal["off"], Meta(description="the cookie with the network user id; `off`: none is set or read")
    ] = field(default_factory=SnowplowCookie)
    paths: Annotated[
        dict[str, Literal["tp2", "iglu", "redirect"]],
        Meta(description="paths of your own that select this site, such as `/com.acme/track: tp2`"),
    ] = {}
    schemas: Annotated[
        str | None,
        Meta(
            description="folder on the edge's machine with Iglu schemas, `vendor/name/format/version`, read when a project is applied; none: no data are checked"
        ),
    ] = None
    on_invalid: Annotated[
        Literal["warn", "dead_letter"],
        Meta(description="what becomes of an event whose data, or an entity's, do not fit a schema of the folder"),
    ] = "warn"
    redirect_hosts: Annotated[
        list[str],
        Meta(
            description="hosts that `/r/tp2` may send browsers to, such as `shop.example.com` or `*.example.com`; empty: it is off"
        ),
    ] = []
