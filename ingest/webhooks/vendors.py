"""The vendors' own ways to sign, and the usual places of their events' names and ids. Pure.

Facts are from the vendors' pages: docs.github.com/webhooks, docs.stripe.com/webhooks/signature, shopify.dev/docs/apps/build/webhooks,
docs.slack.dev/authentication/verifying-requests-from-slack, the Event Webhook's pages at www.twilio.com/docs/sendgrid,
www.twilio.com/docs/usage/security and standardwebhooks.com. `tests/unit/ingest/webhooks/signed.json` holds what their own libraries signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from ingest.contract import HttpRequest, Unproven
from ingest.webhooks.signatures import LONGEST_HEADER, Signed, check_time, of_signature
from shared.project.webhooks import Signature, Webhook

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

Verify = Callable[[HttpRequest, float], Unproven | None]

FORM_BYTES = 256 * 1024
FORM_FIELDS = 1000
"""A form of Twilio has some dozens of fields; no more is read before the sender is believed."""


class Places(NamedTuple):
    """Where a vendor's payloads have the event's name and the delivery's id."""

    event: tuple[str, ...] = ()
    message_id: tuple[str, ...] = ()


PLACES: Mapping[str, Places] = {
    "standard": Places(("type",), ("header:webhook-id", "header:svix-id")),
    "github": Places(("header:X-GitHub-Event",), ("header:X-GitHub-Delivery",)),
    "stripe": Places(("type",), ("id",)),
    "shopify": Places(("header:X-Shopify-Topic",), ("header:X-Shopify-Webhook-Id", "header:X-Shopify-Event-Id")),
    "slack": Places(("event.type", "command", "type"), ("event_id", "trigger_id")),
    "sendgrid": Places(("event",), ("sg_event_id",)),
    "twilio": Places(("EventType", "SmsStatus", "MessageStatus", "CallStatus"), ("header:I-Twilio-Idempotency-Token",)),
}

_FORMS: Mapping[str, Signature] = {
    "standard": Signature(
        header="webhook-signature",
        encoding="base64",
        prefix="v1,",
        signed="{id}.{timestamp}.{body}",
        timestamp_header="webhook-timestamp",
        id_header="webhook-id",
    ),
    "github": Signature(header="X-Hub-Signature-256", prefix="sha256="),
    "stripe": Signature(header="Stripe-Signature", signed="{timestamp}.{body}", timestamp_header="Stripe-Signature"),
    "shopify": Signature(header="X-Shopify-Hmac-Sha256", encoding="base64"),
    "slack": Signature(
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="X-Slack-Request-Timestamp",
    ),
}


def of_vendor(webhook: Webhook, secrets: Sequence[str]) -> Verify:
    """Returns what verifies the requests of a vendor.

    Raises:
        ValueError: a secret is none of that vendor; the text does not show it.
    """
    if webhook.type == "sendgrid":
        tolerance = 0.0 if webhook.tolerance is None else float(webhook.tolerance)
        return _sendgrid([_public_key(each) for each in secrets], tolerance)
    if webhook.type == "twilio":
        return _twilio(webhook.url or "", [each.encode() for each in secrets])
    readers = {"stripe": _read_stripe, "standard": _read_standard}
    keys = [_standard_key(each) if webhook.type == "standard" else each.encode() for each in secrets]
    return of_signature(_FORMS[webhook.type], keys, webhook.tolerance_seconds, readers.get(webhook.type))


def _read_stripe(headers: Mapping[str, str]) -> Signed:
    """Reads `t=1700000000,v1=…,v1=…`; signatures of other versions are not looked at."""
    value = headers.get("stripe-signature", "")
    if len(value) > LONGEST_HEADER:
        return Signed(["-"])
    pairs = [part.strip().partition("=") for part in value.split(",")]
    signatures = [text for name, _, text in pairs if name == "v1"]
    return Signed(signatures, next((text for name, _, text in pairs if name == "t"), ""))


def _read_standard(headers: Mapping[str, str]) -> Signed:
    """Reads `v1,… v1,…`, and the headers of the id and the time; `svix-…` where the sender writes these names."""
    mine, other = ("webhook", "svix") if "webhook-signature" in headers else ("svix", "webhook")
    value, id_ = headers.get(f"{mine}-signature", ""), headers.get(f"{mine}-id", "")
    forged = headers.get(f"{other}-id", id_) != id_  # an id beside the signed one
    signatures = [] if forged or len(value) > LONGEST_HEADER else [each[3:] for each in value.split() if each.startswith("v1,")]
    return Signed(signatures or (["-"] if value else []), headers.get(f"{mine}-timestamp", ""), id_)


def _standard_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:  # everybody can sign with an empty key
        raise ValueError("its secret is not `whsec_` and base64")
    return key


def _public_key(text: str) -> EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey  # few projects need it
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey):
        raise ValueError("its secret is no public key of SendGrid's Event Webhook")  # the caller knows one kind
    return key


def _sendgrid(keys: Sequence[EllipticCurvePublicKey], tolerance_seconds: float) -> Verify:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    header = "X-Twilio-Email-Event-Webhook-Signature"
    wrong = Unproven(
        401, "wrong_signature", f"the signature in {header} is not made of this body with the key that belongs to the public one"
    )

    def verify(request: HttpRequest, now: float) -> Unproven | None:
        text = request.headers.get(header.lower(), "")
        timestamp = request.headers.get("x-twilio-email-event-webhook-timestamp", "")
        if not text:
            return Unproven(401, "missing_signature", f"no signature: enable the Signed Event Webhook, which writes {header}")
        if (stale := check_time(timestamp, now, tolerance_seconds)) is not None:
            return stale
        try:
            signature = base64.b64decode(text[:LONGEST_HEADER], validate=True)
        except (binascii.Error, ValueError):
            return wrong
        for key in keys:
            try:
                key.verify(signature, timestamp.encode() + request.body, ECDSA(SHA256()))
            except InvalidSignature:
                continue
            return None
        return wrong

    return verify


def _twilio(url: str, keys: Sequence[bytes]) -> Verify:
    wrong = Unproven(
        401,
        "wrong_signature",
        "the signature in X-Twilio-Signature is not made with the auth token over `url` and this form; is `url` the address that Twilio has?",
    )
    addresses = _spellings(url.partition("?")[0])

    def verify(request: HttpRequest, _now: float) -> Unproven | None:
        text = request.headers.get("x-twilio-signature", "")
        if not text:
            return Unproven(401, "missing_signature", "no signature: Twilio writes it into X-Twilio-Signature")
        digest = request.query.get("bodySHA256")
        form = ""
        if digest is not None:
            if not hmac.compare_digest(
                hashlib.sha256(request.body).hexdigest().encode(), digest.lower().encode("utf-8", "replace")
            ):
                return wrong
        elif request.body:
            read = _form(request)
            if read is None:
                return Unproven(
                    403,
                    "unsigned",
                    f"expected a form of Twilio of at most {FORM_BYTES} bytes and {FORM_FIELDS} fields, or bodySHA256",
                )
            form = read
        given = text[:LONGEST_HEADER].encode("utf-8", "replace")
        query = f"?{request.query_text}" if request.query_text else ""
        for key in keys:
            for address in addresses:
                signed = f"{address}{query}{form}".encode("utf-8", "surrogateescape")
                if hmac.compare_digest(base64.b64encode(hmac.digest(key, signed, "sha1")), given):
                    return None
        return wrong

    return verify


def _form(request: HttpRequest) -> str | None:
    """Returns the fields of a form as Twilio signs them: sorted by name, names and values in a row; None if it is none."""
    if len(request.body) > FORM_BYTES or "form-urlencoded" not in request.headers.get("content-type", "").lower():
        return None
    try:
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS)
    except ValueError:
        return None
    return "".join(name + value for name, value in sorted(set(pairs)))


def _spellings(address: str) -> list[str]:
    """Returns an address with and without the port that its scheme has anyway: Twilio has signed either."""
    parts = urlsplit(address)
    port = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    host = parts.netloc.removesuffix(port)
    return [address] if ":" in host.rpartition("]")[2] else [f"{parts.scheme}://{host}{each}{parts.path}" for each in ("", port)]
