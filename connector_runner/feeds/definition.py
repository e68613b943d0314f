"""What a feed is made of, as the applied project has it, and the words by which others know its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.project.model import SiteLimits
from shared.project.snapshot import ConfigSnapshot

WAITS = "waits"
"""How words on a feed begin that is held."""
DYING = " of the newest records became dead letters"


class Definition(NamedTuple):
    """The entry of a feed in the resolved project, and the limits of its site."""

    document: Mapping[str, Any]
    limits: SiteLimits


def definitions(snapshot: ConfigSnapshot) -> dict[str, Definition]:
    """Returns the definitions of all enabled feeds."""
    project = snapshot.project
    return {
        name: Definition(document, project.sites[document["site"]].limits)
        for name, document in project.feeds.items()
        if document.get("enabled", True) and project.sites[document["site"]].enabled
    }
