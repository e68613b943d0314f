"""Consent as Segment's and RudderStack's SDKs say it, and what a connection with categories gets of it."""

from __future__ import annotations

from typing import Any

import pytest

from router.rules.match import match
from shared.events.outcome import DropReason
from shared.rules.consent import refused
from tests.unit.router.test_match import arrive, frame_of, rules_of


@pytest.mark.parametrize(
    ("context", "found"),
    [
        ({}, []),
        (None, []),
        ({"consent": {}}, []),
        ({"consent": {"categoryPreferences": {}}}, ["ads", "stats"]),
        ({"consent": {"categoryPreferences": {"ads": True, "stats": False}}}, ["stats"]),
        ({"consentManagement": {"provider": "oneTrust", "deniedConsentIds": ["more"]}}, []),
        ({"consentManagement": {"deniedConsentIds": ["ads"]}}, ["ads"]),
        ({"consentManagement": {"deniedConsentIds": [], "allowedConsentIds": ["ads"]}}, ["stats"]),
        ({"consentManagement": {"allowedConsentIds": [], "deniedConsentIds": None}}, []),
        ({"consentManagement": ["ads"]}, []),
        ({"consentManagement": {"deniedConsentIds": ["ads"], "resolutionStrategy": "or"}}, []),
        ({"consentManagement": {"deniedConsentIds": ["ads", "stats"], "resolutionStrategy": "any"}}, ["ads", "stats"]),
        ({"consentManagement": {"deniedConsentIds": ["ads"], "resolutionStrategy": "and"}}, ["ads"]),
        ({"consentManagement": {"deniedConsentIds": ["stats"], "resolutionStrategy": 5}}, ["stats"]),
        ({"consentManagement": {"allowedConsentIds": [["stats"]], "deniedConsentIds": {"ads": True}}}, ["ads", "stats"]),
        (
            {
                "consent": {"categoryPreferences": {"ads": True, "stats": True}},
                "consentManagement": {"deniedConsentIds": ["ads"]},
            },
            ["ads"],
        ),
    ],
)
def test_the_categories_that_an_event_refuses(context: Any, found: list[str]) -> None:
    assert refused(["ads", "stats"], context) == found


@pytest.mark.parametrize(
    ("managed", "reason"), [({"deniedConsentIds": ["ads"]}, DropReason.CONSENT), ({"deniedConsentIds": ["stats"]}, None)]
)
def test_a_connection_gets_no_event_whose_person_denied_its_category_in_rudderstacks_words(
    managed: dict[str, Any], reason: DropReason | None
) -> None:
    matched = match(rules_of(consent=["ads"]), arrive(frame_of([{"context": {"consentManagement": managed}}])))
    assert dict(matched.drops) == ({} if reason is None else {reason: 1})
