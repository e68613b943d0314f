"""What the pages of a site are told: the settings document with its device destinations, and the rules of its cookie.

Made once a revision of the project, and written when a page first asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from ingest.browser.assets import File, file_of, version
from ingest.clients.origins import Origins
from shared.devices.registry import public_options
from shared.errors import ConfigError
from shared.project.model import Project

ANY_PAGE = Origins([])
SETTINGS_CACHE = "public, max-age=60, stale-while-revalidate=600"


@dataclass(frozen=True)
class SitePages:
    """A site as its pages know it."""

    origins: Origins = ANY_PAGE
    cookie_domain: str | None = None
    cookie_days: int = 365
    devices: list[dict[str, Any]] = field(default_factory=list)

    def plugins(self, base: str) -> list[dict[str, Any]]:
        """Returns the plug-ins that Segment's analytics-next loads: one for all devices; none without devices.

        Args:
            base: scheme and authority of the edge.
        """
        if not self.devices:
            return []
        settings = {"base": f"{base}/p/", "version": version(), "devices": self.devices}
        url = f"{base}/p/m/plugin.js?v={version()}"
        return [{"name": "Penstock devices", "libraryName": "penstockDevices", "url": url, "settings": settings}]

    @property
    def document(self) -> dict[str, Any]:
        """The settings of the script."""
        cookie = {"cookie": {"domain": self.cookie_domain, "days": self.cookie_days}} if self.cookie_domain else {}
        return {"devices": self.devices, **cookie}

    @cached_property
    def settings(self) -> File:
        """The settings, ready to be sent."""
        return file_of(msgspec.json.encode(self.document).decode(), "application/json", SETTINGS_CACHE, best=False)


def pages_of(project: Project) -> Mapping[str, SitePages]:
    """Returns what the pages of every site are told. A device that an earlier version applied and that is refused today is left out."""
    devices: dict[str, list[dict[str, Any]]] = {}
    for name, connection in project.devices.items():
        document = project.destinations.get(connection.destination, {})
        type_name = str(document.get("type"))
        if not connection.enabled:
            continue
        try:
            options = public_options(connection.destination, document)
        except ConfigError:
            continue
        devices.setdefault(connection.site, []).append(
            {
                "name": name,
                "type": type_name,
                "src": f"d/{type_name}.js?v={version()}",
                "names": sorted({name, connection.destination, type_name}),
                "integrations": connection.integrations,
                "consent": connection.consent,
                "where": connection.where,
                "options": options,
            }
        )
    return {
        name: SitePages(Origins(site.origins), site.browser.cookie_domain, site.browser.cookie_days, devices.get(name, []))
        for name, site in project.sites.items()
    }


def paths_of(project: Project) -> tuple[str, ...]:
    """Returns the further paths of the script."""
    return tuple(site.browser.path for site in project.sites.values() if site.browser.path)
