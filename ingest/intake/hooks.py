"""The secrets of webhooks: read again every minute where the project only refers to them, so a changed one needs no restart.

A webhook whose secret cannot be read, or is no key of its type, is sealed (`ingest/webhooks/hook.py`) and said on `/ready`; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import msgspec

from ingest.webhooks.hook import BuiltHook, hook_of
from shared.errors import NotConnected, SetupError
from shared.project.model import Project
from shared.project.webhooks import Webhook
from shared.secrets.reading import reveal
from shared.secrets.references import references_in
from shared.telemetry.health import Health

REREAD_SECONDS = 60.0
_SECRETS = ("secret", "previous_secret")
_PART = "webhooks"

log = logging.getLogger(__name__)


def refers(project: Project) -> bool:
    """Whether a webhook of the project refers to its secret."""
    return any(references_in([each.secret, each.previous_secret]) for each in project.webhooks.values())


async def read_hooks(project: Project, health: Health) -> Mapping[str, BuiltHook]:
    """Returns the webhooks with the secrets as they are now, and says on `/ready` which of them have none."""
    found = await asyncio.gather(*(_read(name, webhook) for name, webhook in project.webhooks.items()))
    sealed = "; ".join(f"{name}: {why}" for name, _, why in found if why)
    if sealed:
        text = f"webhooks refuse everybody with 503 because their secrets cannot be read or used: {sealed}"
        if health.warnings.get(_PART) != text:  # once, not each minute
            log.warning("webhooks are sealed", extra={"why": sealed})
        health.warn(_PART, text)
    else:
        health.good(_PART)
    return {name: hook for name, hook, _ in found}


async def _read(name: str, webhook: Webhook) -> tuple[str, BuiltHook, str]:
    written = {each: value for each in _SECRETS if (value := getattr(webhook, each)) is not None}
    if not references_in(written):
        hook = hook_of(name, webhook)
        return name, hook, hook.sealed
    try:
        revealed = await asyncio.to_thread(reveal, written)
    except (SetupError, NotConnected) as exc:
        return name, hook_of(name, webhook, "its secret cannot be read"), str(exc)
    hook = hook_of(name, msgspec.structs.replace(webhook, **revealed))
    return name, hook, hook.sealed
