"""Slack: a message in a channel for each event, by an incoming webhook.
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks

The text is a template. Clients' values are escaped in it, so that no client can notify a whole channel or hide a link behind
other words (https://docs.slack.dev/messaging/formatting-message-text#escaping); the template's own text may do both.

Known traps: a webhook takes about a message a second. A revoked address gets 403, 404 or 410 and a word such as `no_service`;
that is no event's fault. Slack has no id for messages, so a message that comes twice shows twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from loader.calls.batches import post
from loader.calls.options import Sending, address, require, send_limits
from loader.calls.text import TemplateFailed, Text
from loader.calls.verdicts import JSON_TYPE, alike, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Outcome

MOST_TEXT = 40_000
"""Characters that Slack shows of a message (https://docs.slack.dev/reference/methods/chat.postMessage)."""
TEXT = "*{{ event.event or event.name or event.type }}* by {{ event.userId or event.anonymousId or 'unknown' }}"
_TABLE = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Options(Sending, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a channel of Slack."""

    url: Annotated[str, Meta(extra={"secret": True}, description="address of the incoming webhook")]
    text: Annotated[str, Meta(description="template of the message; it sees `event`. An empty text skips the event")] = TEXT
    calls_at_once: Annotated[int, Meta(ge=1, le=256, description="calls under way together")] = 1
    rate: Annotated[Annotated[float, Meta(gt=0)] | None, Meta(description="most calls a second; none: unlimited")] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("url", self.url, r"https://[^/?#@\s]+/[^?#\s]+", "an address such as https://hooks.slack.com/services/…")
        try:
            Text(self.text, ("event",), MOST_TEXT)
        except ValueError as exc:
            raise ValueError(f"text: {exc}") from exc


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return Slack(options)


class Slack(Service):
    """One channel."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options))
        self._text = Text(options.text, ("event",), MOST_TEXT)
        parts = urlsplit(options.url)
        self._url = f"{address(options, f'https://{parts.netloc}')}{parts.path}"

    def calls(self, events: Sequence[JSON], at: float) -> Calls:  # noqa: ARG002
        calls: list[Call] = []
        ended: dict[int, Drop | Dead] = {}
        for index, event in enumerate(events):
            try:
                text = self._text.render(event=_escaped(msgspec.to_builtins(event, str_keys=True))).strip()
            except TemplateFailed as exc:
                ended[index] = Dead(DeadReason.TEMPLATE_FAILED, f"text: {exc}")
                continue
            if text:
                body = msgspec.json.encode({"text": text})
                calls.append(post(self._url, {"Content-Type": JSON_TYPE}, body, (index,)))
            else:
                ended[index] = Drop(DropReason.TEMPLATE_EMPTY)
        return Calls(calls, ended)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome]:
        return alike(call, verdict(response, form="text"))

    def trial(self) -> Call | str:
        """A message without a text, which Slack refuses; an address that was taken back it refuses in other words."""
        return post(self._url, {"Content-Type": JSON_TYPE}, b"{}", (0,))


def _escaped(value: object) -> object:
    """Returns a value whose texts, also those of keys, are escaped."""
    if isinstance(value, str):
        return value.translate(_TABLE)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list) else value
