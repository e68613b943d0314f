"""Microsoft Teams: an Adaptive Card in a channel or chat, by a workflow that starts with a webhook.
https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook
https://adaptivecards.io/explorer/

Known traps: a message may have 28 KB, so texts are cut and fewer faults are listed; the workflow answers 202 before Teams shows anything, and
shows a message that comes twice twice. The older connectors of Office 365 take other messages, and are retired. A
`TextBlock` reads a part of Markdown, so that a name of a client could make a link; a `TextRun` does not
(https://learn.microsoft.com/en-us/adaptive-cards/create/textfeatures).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from router.alerts.contract import Item, Message, Outcome, Post, Response
from router.alerts.kit import JSON_TYPE, fitting, headline, lasted, line, require_address, rest, sample_lines, verdict, why_of

MOST_ITEMS = 15
KNOWS_REPEATS = False
RESOLVES_EACH = False
MOST_TEXT = 1_000
MOST_BYTES = 24_000
"""Of a whole message; the limit is 28 KB, and it is not said in which encoding it is measured."""
_COLORS = {"critical": "attention", "warning": "warning"}


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a channel of Teams."""

    url: Annotated[
        str,
        Meta(
            extra={"secret": True},
            description="address that the workflow shows for its webhook",
        ),
    ]

    def __post_init__(self) -> None:
        require_address("url", self.url, "https://prod-00.westeurope.logic.azure.com/workflows/…")


OPTIONS = Options


def requests(options: Options, message: Message) -> list[Post]:
    """Returns one call with one card."""
    message = fitting(message, lambda each: len(_payload(each)) <= MOST_BYTES)
    return [Post(options.url, {"Content-Type": JSON_TYPE}, _payload(message))]


def _payload(message: Message) -> bytes:
    body: list[dict[str, Any]] = [_line(headline(message), weight="bolder", size="medium")]
    for item in message.items:
        body.extend(_of(item, message.at))
    if more := rest(message):
        body.append(_line(more))
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
        "msteams": {"width": "Full"},
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return msgspec.json.encode({"type": "message", "attachments": [attachment]})


def answer(request: Post, response: Response) -> Outcome:  # noqa: ARG001
    """Returns what became of the message."""
    return verdict(response)


def _of(item: Item, at: float) -> list[dict[str, Any]]:
    ended = "default" if item.note else "good"
    color = ended if item.status == "recovered" else _COLORS[item.severity]
    found = [{**_line(line(item), color=color, weight="bolder"), "separator": True}]
    found += [_line(each) for each in (why_of(item), *sample_lines(item), lasted(item, at)) if each]
    return [*found, _line(f"try: {item.next}", fontType="monospace")] if item.next else found


def _line(text: str, **how: object) -> dict[str, Any]:
    return {"type": "RichTextBlock", "spacing": "small", "inlines": [{"type": "TextRun", "text": text[:MOST_TEXT], **how}]}
