"""The secrets of webhooks: read again every minute where the project only refers to them, so a changed one needs no restart.

A webhook whose secret cannot be read, or is no key of its type, is sealed (`ingest/webhooks/hook.py`) and said on `/ready`; the others go on.
While a vault does not answer, the secrets that it gave last stay in force: a vendor that hears 503 for long gives up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

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
_PART, _OLD = "webhooks", "secrets of webhooks"


class _Kept(NamedTuple):
    """Of a webhook: its secrets as written and as last read, what it was built of, and what came of that."""

    written: dict[str, Any]
    revealed: dict[str, Any]
    made_of: tuple[Webhook, str] | None = None
    hook: BuiltHook | None = None


Known = dict[str, _Kept]
"""What was read, by webhook."""
_NOTHING = _Kept({}, {})

log = logging.getLogger(__name__)


def refers(project: Project) -> bool:
    """Whether a webhook of the project refers to its secret."""
    return any(references_in([each.secret, each.previous_secret]) for each in project.webhooks.values())


async def read_hooks(project: Project, health: Health, known: Known) -> Mapping[str, BuiltHook]:
    """Returns the webhooks with the secrets as they are now, and says on `/ready` which of them have none, and which have old ones.

    Args:
        known: what earlier calls read; kept up to date.
    """
    old: list[str] = []
    found = await asyncio.gather(*(_read(name, webhook, known, old) for name, webhook in project.webhooks.items()))
    for name in known.keys() - project.webhooks.keys():
        del known[name]
    if old:
        health.warn(_OLD, f"secrets cannot be read again, the ones read last stay in force: {'; '.join(sorted(old))}")
    else:
        health.good(_OLD)
    sealed = "; ".join(f"{name}: {why}" for name, _, why in found if why)
    if sealed:
        text = f"webhooks refuse everybody with 503 because their secrets cannot be read or used: {sealed}"
        if health.warnings.get(_PART) != text:  # once, not each minute
            log.warning("webhooks are sealed", extra={"why": sealed})
        health.warn(_PART, text)
    else:
        health.good(_PART)
    return {name: hook for name, hook, _ in found}


def are_same(some: Mapping[str, BuiltHook], others: Mapping[str, BuiltHook]) -> bool:
    """Whether two readings gave the same webhooks: `read_hooks` builds only a changed one again."""
    return some.keys() == others.keys() and all(hook is others[name] for name, hook in some.items())


async def _read(name: str, webhook: Webhook, known: Known, old: list[str]) -> tuple[str, BuiltHook, str]:
    written = {each: value for each in _SECRETS if (value := getattr(webhook, each)) is not None}
    before = known.get(name, _NOTHING)
    if not references_in(written):
        hook = _built(known, name, webhook, before._replace(written={}, revealed={}))
        return name, hook, hook.sealed
    revealed = before.revealed
    try:
        revealed = await asyncio.to_thread(reveal, written)
    except (SetupError, NotConnected) as exc:
        if isinstance(exc, SetupError) or before.written != written:
            return name, _built(known, name, webhook, before, sealed="its secret cannot be read"), str(exc)
        old.append(f"{name}: {exc}")
    hook = _built(
        known, name, msgspec.structs.replace(webhook, **revealed), _Kept(written, revealed, before.made_of, before.hook)
    )
    return name, hook, hook.sealed


def _built(known: Known, name: str, webhook: Webhook, kept: _Kept, sealed: str = "") -> BuiltHook:
    """Returns a webhook, the one of before where it would be made of the same."""
    made_of = (webhook, sealed)
    hook = kept.hook if kept.hook is not None and kept.made_of == made_of else hook_of(name, webhook, sealed)
    known[name] = kept._replace(made_of=made_of, hook=hook)
    return hook
