"""Slack: a message in a channel, by an incoming webhook.
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks

Texts are escaped (https://docs.slack.dev/messaging/formatting-message-text#escaping), so that no name notifies a whole channel. Known
traps: a webhook takes about a message a second. Slack has no id for messages, so one that comes twice shows twice. A message holds 50
blocks, a section 3,000 characters; beyond some 10,000 characters in all, Slack refuses it (`msg_blocks_too_long`,
https://github.com/slackapi/bolt-js/issues/2867). `verbatim` keeps addresses in texts from becoming links
(https://docs.slack.dev/reference/block-kit/composition-objects/text-object).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from router.alerts.contract import Item, Message, Outcome, Post, Response
from router.alerts.kit import JSON_TYPE, fitting, headline, lasted, line, require_address, rest, sample_lines, verdict, why_of

MOST_ITEMS = 20
KNOWS_REPEATS = False
RESOLVES_EACH = False
MOST_TEXT = 2_900
MOST_CHARACTERS = 9_000
"""Of all sections together."""
_TABLE = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "*": "\u2217", "`": "\u02cb", "~": "\u223c"})


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a channel of Slack."""

    url: Annotated[
        str,
        Meta(
            extra={"secret": True},
            description="address of the incoming webhook, such as https://hooks.slack.com/services/…",
        ),
    ]

    def __post_init__(self) -> None:
        require_address("url", self.url, "https://hooks.slack.com/services/…")


OPTIONS = Options


def requests(options: Options, message: Message) -> list[Post]:
    """Returns one call: a line in short for notifications, and a section for each item."""
    message = fitting(message, lambda each: sum(map(len, _texts(each))) <= MOST_CHARACTERS)
    blocks = [_section(text) for text in _texts(message)]
    body = msgspec.json.encode({"text": _escaped(headline(message)), "blocks": blocks, "unfurl_links": False})
    return [Post(options.url, {"Content-Type": JSON_TYPE}, body)]


def answer(request: Post, response: Response) -> Outcome:  # noqa: ARG001
    """Returns what became of the message."""
    return verdict(response)


def _texts(message: Message) -> list[str]:
    texts = [f"*{_escaped(headline(message))}*", *(_of(item, message.at) for item in message.items), _escaped(rest(message))]
    return [text for text in texts if text]


def _section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _of(item: Item, at: float) -> str:
    ended = ":heavy_minus_sign:" if item.note else ":white_check_mark:"
    mark = ended if item.status == "recovered" else ":red_circle:" if item.severity == "critical" else ":warning:"
    lines = [
        f"{mark} *{_escaped(line(item))}*",
        _escaped(why_of(item)),
        *(_escaped(each) for each in sample_lines(item)),
        lasted(item, at),
        f"try: `{item.next}`" if item.next else "",
    ]
    return "\n".join(each for each in lines if each)[:MOST_TEXT]


def _escaped(text: str) -> str:
    """Returns a text without markup: Slack has no escape for it, so what would begin some gets a look-alike."""
    return text.translate(_TABLE)
