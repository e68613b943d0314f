"""Where Penstock cannot delete, and what a person does there instead: for each type of destination that keeps what it got."""

from __future__ import annotations

from shared.devices.registry import is_device

BY_HAND = "to do by hand: Penstock cannot delete there"

_PAGES = {
    "amplitude": "with its User Privacy API, https://amplitude.com/docs/apis/analytics/user-privacy",
    "braze": "with POST /users/delete, https://www.braze.com/docs/api/endpoints/user_data/post_user_delete/",
    "customerio": "delete and suppress the person, https://docs.customer.io/journeys/delete-people/",
    "ga4": "with its User Deletion API, https://developers.google.com/analytics/devguides/config/userdeletion/v3",
    "hubspot": "delete the contact with POST /crm/v3/objects/contacts/gdpr-delete, https://developers.hubspot.com/docs/api/crm/contacts",
    "intercom": "delete the contact, https://developers.intercom.com/docs/references/rest-api/api.intercom.io/contacts/deletecontact",
    "iterable": "with POST /api/users/forget, https://api.iterable.com/api/docs#users_forget",
    "klaviyo": "with POST /api/data-privacy-deletion-jobs, https://developers.klaviyo.com/en/reference/request_profile_deletion",
    "mixpanel": "with its GDPR API, https://developer.mixpanel.com/reference/gdpr-api",
    "posthog": "delete the person with their events, https://posthog.com/docs/privacy/data-deletion",
    "segment": "with a regulation SUPPRESS_WITH_DELETE, https://docs.segmentapis.com/tag/Deletion-and-Suppression",
    "google_ads": "conversions cannot be deleted; they name people by hashes only",
    "meta_conversions": "events cannot be deleted; they name people by hashes only",
    "tiktok": "events cannot be deleted; they name people by hashes only",
    "slack": "delete the messages, https://api.slack.com/methods/chat.delete",
    "webhook": "ask the people who run it",
    "kafka": "the messages end with the retention of the topic, or by compaction",
    "kinesis": "the records end with the retention of the stream",
}


def by_hand(type_: object) -> str | None:
    """Returns what a person must do in a destination of a type; None: Penstock may be able to delete there."""
    if is_device({"type": type_}):
        return "to do by hand: the vendor got the events from the visitor's browser; delete them there"
    page = _PAGES.get(type_) if isinstance(type_, str) else None
    return f"{BY_HAND}; {page}" if page is not None else None
