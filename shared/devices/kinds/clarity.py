"""Microsoft Clarity records sessions. https://learn.microsoft.com/en-us/clarity/setup-and-installation/clarity-api

Visitors: https://learn.microsoft.com/en-us/clarity/setup-and-installation/identify-api. Consent:
https://learn.microsoft.com/en-us/clarity/setup-and-installation/clarity-consent-api-v2.

Known traps: a page has one Clarity, so a second destination with another project gets nothing there. Events have no properties; tags
of the session can hold some. Names and values have at most 255 characters.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from shared.devices.scripts import VendorScript, check_pattern, check_script
from shared.errors import Problem

HOSTS = ("https://*.clarity.ms", "https://c.bing.com")

ONE_A_PAGE = "project_id"

STORAGES = ("ad_Storage", "analytics_Storage")


class Options(VendorScript, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for Clarity."""

    project_id: Annotated[str, Meta(description="id of the project")]
    tags: Annotated[
        list[str], Meta(description="traits and properties of events that become tags of the session; no others do")
    ] = field(default_factory=list)
    consent_mode: Annotated[
        dict[str, list[str]],
        Meta(description="`ad_Storage` and `analytics_Storage`, each with the categories that a visitor must grant for it"),
    ] = field(default_factory=dict)


OPTIONS = Options


def check(path: str, options: Options) -> list[Problem]:
    """Returns what is wrong with the options."""
    problems = check_script(path, options)
    problems += check_pattern(f"{path}.project_id", options.project_id, "[a-z0-9]+", "small letters and digits")
    for name, categories in options.consent_mode.items():
        if name not in STORAGES:
            problems.append(Problem(f"{path}.consent_mode.{name}", f"unknown; known: {', '.join(STORAGES)}"))
        elif not categories:
            problems.append(Problem(f"{path}.consent_mode.{name}", "expected at least one category"))
    return problems
