"""A webhook of the project, ready to verify its senders and to read their payloads; built once per revision of the project.

A webhook whose secret cannot be had is *sealed*: it refuses everybody with 503, so the sender comes again, and lets nobody in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ingest.contract import HttpRequest, Outside, Reading, Unproven
from ingest.webhooks.outside import KINDS, inside_of, outside_of
from ingest.webhooks.signatures import of_signature
from ingest.webhooks.tokens import of_token
from ingest.webhooks.vendors import PLACES, Places, of_vendor
from shared.project.model import Project
from shared.project.webhooks import Webhook
from shared.secrets.references import references_in

Verify = Callable[[HttpRequest, float], Unproven | None]

_UNREAD = "its secret is not read yet"


@dataclass(frozen=True, slots=True)
class BuiltHook:
    """See `ingest.contract.Hook`."""

    reading: Reading
    outside: tuple[Outside | None, Outside | None, Outside | None]
    hidden: str
    verify: Verify
    binds_id: bool = False
    sealed: str = ""
    """Why it can verify nobody; empty: it can."""


def hooks_of(project: Project, sealed: Mapping[str, str] | None = None) -> dict[str, BuiltHook]:
    """Returns the webhooks by name. One that still refers to its secret, or stands in `sealed` with a reason, is sealed."""
    reasons = sealed or {}
    return {name: hook_of(name, webhook, reasons.get(name, "")) for name, webhook in project.webhooks.items()}


def hook_of(name: str, webhook: Webhook, sealed: str = "") -> BuiltHook:
    """Returns one webhook; `sealed` is why it can verify nobody."""
    if references_in([webhook.secret, webhook.previous_secret]):
        sealed = sealed or _UNREAD
    verify = None
    if not sealed:
        try:
            verify = _verifier(webhook)
        except ValueError as exc:  # a key that is none
            sealed = str(exc)
    usual = PLACES.get(webhook.type, Places())
    event, message_id = webhook.event or usual.event, webhook.message_id or usual.message_id
    reading = Reading(
        webhook=name,
        type=webhook.type,
        packed=webhook.format == "packed",
        event=inside_of(event),
        message_id=inside_of(message_id),
        user_id=inside_of(webhook.user_id),
        content_id=webhook.content_id,
    )
    token = webhook.token
    return BuiltHook(
        reading=reading,
        outside=(outside_of(event), outside_of(message_id), outside_of(webhook.user_id)),
        hidden=token.name or "" if token is not None and token.carrier == "query" else "",
        verify=verify or _sealed(sealed),
        binds_id=_binds_id(webhook, message_id),
        sealed=sealed,
    )


def _binds_id(webhook: Webhook, places: Sequence[str]) -> bool:
    """Whether a place of the id is outside of what is signed: a stranger who has one signed body could give it the id of another delivery."""
    if webhook.type in ("open", "token"):  # nothing is signed
        return False
    signature = webhook.signature
    signed = {"header:webhook-id", "header:svix-id"} if webhook.type == "standard" else set()
    if signature is not None and signature.id_header is not None:
        signed.add(f"header:{signature.id_header.lower()}")
    kinds = ("header:",) if webhook.type == "twilio" else KINDS  # Twilio signs the query
    return any(place.startswith(kinds) and place.lower() not in signed for place in places)


def _verifier(webhook: Webhook) -> Verify:
    if webhook.type == "open":
        return _open
    secrets = [each for each in (webhook.secret, webhook.previous_secret) if each is not None]
    if not secrets or not all(each.strip() for each in secrets):  # anybody can guess it
        raise ValueError("its secret is empty")
    if webhook.type == "token":
        return of_token(webhook.token, secrets)
    if webhook.type == "hmac" and webhook.signature is not None:
        return of_signature(webhook.signature, [each.encode() for each in secrets], webhook.tolerance_seconds)
    return of_vendor(webhook, secrets)


def _open(_request: HttpRequest, _now: float) -> None:
    return None


def _sealed(why: str) -> Verify:
    unproven = Unproven(503, "webhook_sealed", f"the webhook can verify nobody now: {why}; try again later")
    return lambda _request, _now: unproven
