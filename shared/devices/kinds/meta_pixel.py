"""Meta's pixel. https://developers.facebook.com/docs/meta-pixel/reference

Standard events: https://developers.facebook.com/docs/meta-pixel/implementation/conversion-tracking. Each call has the `messageId`
as `eventID`, by which Meta joins it with the event of the server's `meta_conversions`
(https://developers.facebook.com/docs/marketing-api/conversions-api/deduplicate-pixel-and-server-events). Several pixels in a page:
https://developers.facebook.com/docs/meta-pixel/guides/track-multiple-events. Consent:
https://developers.facebook.com/docs/meta-pixel/implementation/gdpr.

Known traps: `fbq('track')` goes to every pixel of the page, so the script uses `trackSingle`. The pixel sends a PageView of its own
when the address changes, which `disablePushState` turns off.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from shared.devices.scripts import VendorScript, check_pattern, check_script
from shared.errors import Problem

HOSTS = ("https://connect.facebook.net", "https://www.facebook.com")


class Options(VendorScript, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for a pixel."""

    pixel_id: Annotated[str, Meta(description="id of the pixel or dataset")]
    events: Annotated[dict[str, str], Meta(description="names of events to names at Meta, beside the names on the page")] = field(
        default_factory=dict
    )
    advanced_matching: Annotated[
        bool, Meta(description="give the traits of a known visitor to the pixel when it starts; the pixel hashes them")
    ] = False
    automatic_events: Annotated[
        bool, Meta(description="let the pixel send clicks on buttons and the page's metadata by itself")
    ] = False
    consent_mode: Annotated[
        list[str], Meta(description="categories that a visitor must grant before the pixel sends; it keeps events until then")
    ] = field(default_factory=list)


OPTIONS = Options


def check(path: str, options: Options) -> list[Problem]:
    """Returns what is wrong with the options."""
    return check_script(path, options) + check_pattern(f"{path}.pixel_id", options.pixel_id, r"\d+", "digits")
