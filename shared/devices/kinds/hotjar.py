"""Hotjar records sessions and asks visitors. https://help.hotjar.com/hc/en-us/articles/115011639927-What-is-the-Hotjar-Tracking-Code

Calls: https://help.hotjar.com/hc/en-us/articles/4405109971095-Events-API-Reference,
https://help.hotjar.com/hc/en-us/articles/360033640653-Identify-API-Reference, and `stateChange` for pages of an application with one
document.

Known traps: a page has one Hotjar, so a second destination with another site gets nothing there. Hotjar takes no properties of
events, and few characters in their names.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from shared.devices.scripts import VendorScript, check_script
from shared.errors import Problem

HOSTS = ("https://*.hotjar.com", "https://*.hotjar.io", "wss://*.hotjar.com")

ONE_A_PAGE = "site_id"


class Options(VendorScript, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for Hotjar."""

    site_id: Annotated[int, Meta(gt=0, description="id of the site, `hjid` in the tracking code")]
    version: Annotated[int, Meta(gt=0, description="`hjsv` in the tracking code")] = 6
    pages: Annotated[bool, Meta(description="tell page events of other addresses than the last one, as `stateChange`")] = True


OPTIONS = Options


def check(path: str, options: Options) -> list[Problem]:
    """Returns what is wrong with the options."""
    return check_script(path, options)
