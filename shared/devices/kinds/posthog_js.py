"""PostHog in the page. https://posthog.com/docs/libraries/js

Calls: https://posthog.com/docs/references/posthog-js. An event has the `messageId` as its `uuid` where it is one, as those of the
server's `posthog` have, so PostHog keeps one of both.

Known traps: PostHog captures pages and clicks by itself, which the script turns off. Without `bootstrap` PostHog gives the visitor an
anonymous id of its own, and the page's events would belong to another visitor than the server's.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Meta, field

from shared.devices.scripts import VendorScript, check_pattern, check_script
from shared.errors import Problem

HOSTS = ("https://*.posthog.com",)

OURS = ("api_host", "bootstrap", "capture_pageview")


class Options(VendorScript, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for PostHog in the page."""

    project_key: Annotated[str, Meta(description="project API key (phc_…), which every visitor may read")]
    host: Annotated[
        str, Meta(description="where events go: `https://eu.i.posthog.com` for the EU, or a server or proxy of one's own")
    ] = "https://us.i.posthog.com"
    group_type: Annotated[str, Meta(min_length=1, description="the type that groups have in PostHog")] = "company"
    automatic_events: Annotated[
        bool, Meta(description="let PostHog capture clicks and the end of pages, and record sessions")
    ] = False
    config: Annotated[dict[str, Any], Meta(description="further fields of `posthog.init`, such as `persistence`")] = field(
        default_factory=dict
    )


OPTIONS = Options


def check(path: str, options: Options) -> list[Problem]:
    """Returns what is wrong with the options."""
    problems = check_script(path, options)
    problems += check_pattern(f"{path}.project_key", options.project_key, r"phc_\w+", "a project API key, which begins with phc_")
    parts = urlsplit(options.host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        problems.append(Problem(f"{path}.host", f"expected an address such as https://eu.i.posthog.com, got {options.host!r}"))
    for name in OURS:
        if name in options.config:
            text = (
                "write it as `host`"
                if name == "api_host"
                else "is set by the device, so that events are those of the page; take it out"
            )
            problems.append(Problem(f"{path}.config.{name}", text))
    return problems
