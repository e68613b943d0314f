"""A webhook of your own: one POST with the message as JSON (docs/alerts/webhook.md has its members).

`Idempotency-Key` is the id of the message, the same when it comes again. `secret` signs the body, as GitHub's webhooks do:
`X-Penstock-Signature: sha256=<HMAC of the body>`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

import msgspec
from msgspec import Meta, field

from router.alerts.contract import Message, Outcome, Post, Response
from router.alerts.kit import JSON_TYPE, headline, require_address, verdict

MOST_ITEMS = 100
KNOWS_REPEATS = True
RESOLVES_EACH = False


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a webhook."""

    url: Annotated[str, Meta(description="address that gets a POST")]
    headers: Annotated[dict[str, str], Meta(extra={"secret": True}, description="headers of each call")] = field(
        default_factory=dict
    )
    secret: Annotated[str | None, Meta(extra={"secret": True}, description="signs the body of each call (HMAC-SHA256)")] = None

    def __post_init__(self) -> None:
        require_address("url", self.url, "https://example.com/alerts")
        for name, value in self.headers.items():
            if (
                not name.isascii()
                or not name.replace("-", "").replace("_", "").isalnum()
                or any(ord(each) < 32 for each in value)
            ):
                raise ValueError(f"headers: expected names of letters, digits and - and values of one line, got {name!r}")


OPTIONS = Options


def requests(options: Options, message: Message) -> list[Post]:
    """Returns one call."""
    body = msgspec.json.encode(
        {
            "id": message.id,
            "alert": message.alert,
            "at": message.at,
            "test": message.test,
            "text": headline(message),
            "items": message.items,
            "more": message.more,
        }
    )
    headers = {"Content-Type": JSON_TYPE, "Idempotency-Key": message.id, **options.headers}
    if options.secret is not None:
        headers["X-Penstock-Signature"] = "sha256=" + hmac.new(options.secret.encode(), body, hashlib.sha256).hexdigest()
    return [Post(options.url, headers, body)]


def answer(request: Post, response: Response) -> Outcome:  # noqa: ARG001
    """Returns what became of the message."""
    return verdict(response)
