"""Google Tag Manager: events of the page go into its data layer. https://developers.google.com/tag-platform/tag-manager/datalayer

Known traps: the data layer keeps what earlier events pushed, so the script empties its own keys before each event. Properties stand
below `properties` and never beside `event`, where keys such as `eventCallback` and `gtm.whitelist` mean something to Google.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from shared.devices.google import check_consent_mode
from shared.devices.scripts import VendorScript, check_pattern, check_script
from shared.errors import Problem

HOSTS = ("https://www.googletagmanager.com",)


class Options(VendorScript, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may write for a container. Its tags may need further hosts in a Content-Security-Policy."""

    container_id: Annotated[str, Meta(description="id of the container (GTM-…)")]
    data_layer: Annotated[str, Meta(description="name of the data layer in the page")] = "dataLayer"
    ecommerce: Annotated[bool, Meta(description="push `ecommerce` and Google's names of events, as `ga4_tag` has them")] = False
    environment_auth: Annotated[str | None, Meta(description="`gtm_auth` of an environment of the container")] = None
    environment_preview: Annotated[str | None, Meta(description="`gtm_preview` of an environment of the container")] = None
    load_container: Annotated[bool, Meta(description="false: the page loads the container itself")] = True
    consent_mode: Annotated[
        dict[str, list[str]],
        Meta(description="Google's consent types, each with the categories that a visitor must grant for it; denied until then"),
    ] = field(default_factory=dict)


OPTIONS = Options


def check(path: str, options: Options) -> list[Problem]:
    """Returns what is wrong with the options."""
    problems = check_script(path, options)
    problems += check_pattern(f"{path}.container_id", options.container_id, "GTM-[A-Z0-9]+", "an id such as GTM-ABC123")
    problems += check_pattern(f"{path}.data_layer", options.data_layer, r"[A-Za-z_$][\w$]*", "a name in JavaScript")
    problems += check_consent_mode(path, options.consent_mode)
    if (options.environment_auth is None) != (options.environment_preview is None):
        text = "`environment_auth` and `environment_preview` name an environment together; write both or none"
        problems.append(Problem(path, text))
    return problems
