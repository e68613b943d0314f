"""Google's consent mode, as an option of its devices. https://developers.google.com/tag-platform/security/concepts/consent-mode"""

from __future__ import annotations

from shared.errors import Problem

CONSENT_TYPES = (
    "ad_storage",
    "ad_user_data",
    "ad_personalization",
    "analytics_storage",
    "functionality_storage",
    "personalization_storage",
    "security_storage",
)
"""What Google asks consent for (https://developers.google.com/tag-platform/security/concepts/consent-mode)."""


def check_consent_mode(path: str, modes: dict[str, list[str]]) -> list[Problem]:
    """Returns the consent types that Google does not know, and those without a category."""
    known = ", ".join(CONSENT_TYPES)
    problems = [Problem(f"{path}.consent_mode.{name}", f"unknown; known: {known}") for name in modes if name not in CONSENT_TYPES]
    for name, categories in modes.items():
        if not categories:
            problems.append(Problem(f"{path}.consent_mode.{name}", "expected at least one category"))
    return problems
