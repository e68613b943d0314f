"""Google Analytics 4 in the page, by `gtag.js`. https://developers.google.com/tag-platform/gtagjs/reference

Names and parameters follow Google's recommendations (https://developers.google.com/analytics/devguides/collection/ga4/reference/events),
as those of the server's `ga4` do. Consent mode: https://developers.google.com/tag-platform/security/guides/consent.

Known traps: `gtag('config')` sends a page view of its own unless `send_page_view` is false; the page's events would then count
twice. Google drops events of reserved names without a word, so the script changes such names.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from shared.devices.google import check_consent_mode
from shared.devices.scripts import VendorScript, check_pattern, check_script
from shared.errors import Problem

HOSTS = ("https://www.googletagmanager.com", "https://*.google-analytics.com", "https://*.analytics.google.com")


class Options(VendorScript, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for a tag of GA4."""

    measurement_id: Annotated[str, Meta(description="measurement ID of the web stream (G-…)")]
    config: Annotated[
        dict[str, Any], Meta(description="further fields of `gtag('config')`, such as `debug_mode` or `cookie_domain`")
    ] = field(default_factory=dict)
    events: Annotated[dict[str, str], Meta(description="names of events to names at Google, beside the names on the page")] = (
        field(default_factory=dict)
    )
    consent_mode: Annotated[
        dict[str, list[str]],
        Meta(description="Google's consent types, each with the categories that a visitor must grant for it; denied until then"),
    ] = field(default_factory=dict)


OPTIONS = Options


def check(path: str, options: Options) -> list[Problem]:
    """Returns what is wrong with the options."""
    problems = check_script(path, options)
    problems += check_pattern(f"{path}.measurement_id", options.measurement_id, r"(G|GT|AW)-[A-Z0-9]+", "an ID such as G-ABC123")
    problems += check_consent_mode(path, options.consent_mode)
    if "send_page_view" in options.config:
        text = "is always false, because the page's own page events are sent; take it out"
        problems.append(Problem(f"{path}.config.send_page_view", text))
    return problems
