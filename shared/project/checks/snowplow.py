"""Checks of a site's options for Snowplow's trackers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shared.errors import Problem
from shared.project.snowplow import ANY_SUBDOMAIN, Snowplow

_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.IGNORECASE)
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]{1,100}){1,8}", re.ASCII)
_COOKIE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def check_snowplow(path: str, options: Snowplow, owners: dict[str, str]) -> Iterator[Problem]:
    """Yields every fault of a site's options.

    Args:
        path: of the site, such as `sites.shop`.
        owners: every site's paths so far; this site's are added.
    """
    for own in options.paths:
        where = f"{path}.snowplow.paths[{own!r}]"
        if not _PATH.fullmatch(own):
            yield Problem(
                where, "a path has one to eight parts of letters, digits, `.`, `_`, `~` and `-`, such as /com.acme/track"
            )
        elif own in owners:
            yield Problem(where, f"{owners[own]} has this path already; give each site its own")
        owners[own] = path
    for index, host in enumerate(options.redirect_hosts):
        if not _HOST.fullmatch(host.removeprefix(ANY_SUBDOMAIN)):
            yield Problem(f"{path}.snowplow.redirect_hosts[{index}]", f"expected a host such as shop.example.com, got {host!r}")
    if isinstance(options.cookie, str):
        return
    where, cookie = f"{path}.snowplow.cookie", options.cookie
    if not _COOKIE.fullmatch(cookie.name):
        yield Problem(f"{where}.name", f"expected letters, digits, `_`, `.` and `-`, got {cookie.name!r}")
    if cookie.same_site == "none" and not cookie.secure:
        yield Problem(f"{where}.same_site", "browsers refuse `none` without `secure: true`; write lax")
    for domain in [*cookie.domains, *([cookie.fallback_domain] if cookie.fallback_domain is not None else [])]:
        if not _HOST.fullmatch(domain):
            yield Problem(f"{where}.domains", f"expected a domain such as example.com, got {domain!r}")
