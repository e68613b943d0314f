"""The device destinations under test: a row for each, with a stand-in of its vendor's script.

The suite sends track events only. A stand-in keeps what it is told where the row's `names` finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Subject:
    """One device."""

    options: Mapping[str, Any]
    """As the project file has them, without `type`."""
    names: str
    """JavaScript: the names of the track events that the vendor has been told, in order; an empty array before."""
    vendor: Mapping[str, str] = field(default_factory=dict)
    """The vendor's scripts, by their whole addresses: what Chromium gets for them."""
    revoked: str = ""
    """JavaScript: whether the vendor was told that consent is taken back. Empty: it cannot be told, and its page says so."""
    wrong: tuple[Mapping[str, Any], str] = ({}, "")
    """Options that `check` refuses, and a part of what it says."""


VENDORS = Path(__file__).parent / "vendors"


def vendor(name: str) -> str:
    """Returns a stand-in of a vendor's script, which behaves as the page says that it names."""
    return (VENDORS / name).read_text(encoding="utf-8")


SUBJECTS: dict[str, Subject] = {
    "tag": Subject(
        options={"script": "(window.told ??= []).push(event.event)", "revoke": "window.revoked = true"},
        names="window.told ?? []",
        revoked="window.revoked",
        wrong=({"html": "<b>{{ user }}</b>"}, "expected a path into the event"),
    ),
    "ga4_tag": Subject(
        options={"measurement_id": "G-ABC123"},
        names="(window.told ?? []).filter(([verb]) => verb === 'event').map((words) => words[1])",
        vendor={"https://www.googletagmanager.com/gtag/js?id=G-ABC123": vendor("gtag.js")},
        revoked="window['ga-disable-G-ABC123']",
        wrong=({"measurement_id": "UA-1"}, "an ID such as G-ABC123"),
    ),
    "meta_pixel": Subject(
        options={"pixel_id": "1234567890"},
        names="(window.told ?? []).filter(([verb]) => verb.startsWith('track')).map((words) => words[2])",
        vendor={"https://connect.facebook.net/en_US/fbevents.js": vendor("fbevents.js")},
        revoked="told.some(([verb, word]) => verb === 'consent' && word === 'revoke')",
        wrong=({"pixel_id": "abc"}, "expected digits"),
    ),
    "gtm": Subject(
        options={"container_id": "GTM-ABC123"},
        names="(window.told ?? []).map((words) => words[1]).filter(({type}) => type === 'track').map(({event}) => event)",
        vendor={"https://www.googletagmanager.com/gtm.js?id=GTM-ABC123": vendor("gtm.js")},
        revoked="told.some(([verb, word, states]) => verb === 'consent' && states.ad_storage === 'denied')",
        wrong=({"container_id": "GTM-ABC123", "environment_auth": "x"}, "write both or none"),
    ),
    "logrocket": Subject(
        options={"app_id": "acme/shop"},
        names="(window.told ?? []).filter(([verb]) => verb === 'track').map((words) => words[1])",
        vendor={"https://cdn.logr-in.com/LogRocket.min.js": vendor("logrocket.js")},
        wrong=({"app_id": "shop"}, "organisation/app"),
    ),
    "hotjar": Subject(
        options={"site_id": 123},
        names="(window.told ?? []).filter(([verb]) => verb === 'event').map((words) => words[1])",
        vendor={"https://static.hotjar.com/c/hotjar-123.js?sv=6": vendor("hotjar.js")},
        wrong=({"site_id": 123, "script": "javascript:x"}, "expected an address with https://"),
    ),
    "clarity": Subject(
        options={"project_id": "abc123"},
        names="(window.told ?? []).filter(([verb]) => verb === 'event').map((words) => words[1])",
        vendor={"https://www.clarity.ms/tag/abc123": vendor("clarity.js")},
        revoked="told.some(([verb, word]) => verb === 'consent' && word === false)",
        wrong=({"project_id": "abc123", "consent_mode": {"ads": ["marketing"]}}, "unknown; known: ad_Storage"),
    ),
    "posthog_js": Subject(
        options={"project_key": "phc_abc"},
        names="(window.told ?? []).filter(([verb]) => verb === 'capture').map((words) => words[1])",
        vendor={"https://us-assets.i.posthog.com/static/array.js": vendor("posthog.js")},
        revoked="told.some(([verb]) => verb === 'opt_out_capturing')",
        wrong=({"project_key": "phx_abc"}, "begins with phc_"),
    ),
}
