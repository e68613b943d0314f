"""The consent of an event's person, as Segment's and RudderStack's SDKs say it. Pure.

- Segment: `context.consent.categoryPreferences`, an object of booleans. Each category of a connection must be true.
- RudderStack: `context.consentManagement`, with `deniedConsentIds`, `allowedConsentIds` and `resolutionStrategy`, of any
  `provider`. No category of a connection may be denied; if any id is allowed, each category must be among these. With the strategy
  `or` (also `any`), one such category is enough.

An event without either passes. If it has both, both must allow.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

ONE_IS_ENOUGH = ("or", "any")


def is_named(body: bytes, context: Container[str]) -> bool:
    """Whether an event may say anything of consent: a search in its bytes, and in what its request says of all of its events."""
    if b'"categoryPreferences"' in body or b'"consentManagement"' in body:
        return True
    return "consent" in context or "consentManagement" in context


def refused(wanted: Sequence[str], context: Any) -> list[str]:
    """Returns the categories of `wanted` that forbid the event; none: it may pass.

    Args:
        context: the event's; anything but an object says nothing.
    """
    if type(context) is not dict:
        return []
    found: list[str] = []
    consent = context.get("consent")
    granted = consent.get("categoryPreferences") if type(consent) is dict else None
    if type(granted) is dict:
        found += [category for category in wanted if granted.get(category) is not True]
    managed = context.get("consentManagement")
    if type(managed) is dict:
        missing = _missing(wanted, managed)
        if len(missing) == len(wanted) or managed.get("resolutionStrategy") not in ONE_IS_ENOUGH:
            found += [category for category in missing if category not in found]
    return found


def _missing(wanted: Sequence[str], managed: dict[str, Any]) -> list[str]:
    """Returns the categories that are denied, or not among the allowed ones if there are any."""
    denied, allowed = managed.get("deniedConsentIds"), managed.get("allowedConsentIds")
    no = denied if type(denied) is list else []
    yes = allowed if type(allowed) is list and allowed else None
    return [category for category in wanted if category in no or (yes is not None and category not in yes)]
