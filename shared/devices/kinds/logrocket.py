"""LogRocket records sessions. https://docs.logrocket.com/docs/quickstart

Calls: https://docs.logrocket.com/reference/identify, https://docs.logrocket.com/reference/track and, for another visitor,
https://docs.logrocket.com/reference/start-new-session.

Known traps: a page has one LogRocket, so a second destination with another app gets nothing there. Values of traits and properties are
texts, numbers and booleans; the script writes others as JSON.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from shared.devices.scripts import VendorScript, check_pattern, check_script
from shared.errors import Problem

HOSTS = ("https://*.logr-in.com", "https://*.logrocket.io", "https://*.lr-ingest.com", "https://*.lr-in-prod.com")

ONE_A_PAGE = "app_id"


class Options(VendorScript, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for LogRocket."""

    app_id: Annotated[str, Meta(description="the app, as organisation/app")]
    config: Annotated[dict[str, Any], Meta(description="further fields of `LogRocket.init`, such as `rootHostname`")] = field(
        default_factory=dict
    )
    pages: Annotated[bool, Meta(description="tell page events too, as `Page Viewed`; LogRocket sees addresses by itself")] = False


OPTIONS = Options


def check(path: str, options: Options) -> list[Problem]:
    """Returns what is wrong with the options."""
    problems = check_script(path, options)
    return problems + check_pattern(f"{path}.app_id", options.app_id, r"[\w.-]+/[\w.-]+", "organisation/app")
