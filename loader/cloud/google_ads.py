"""Conversions to Google Ads, by uploading click conversions.

https://developers.google.com/google-ads/api/docs/conversions/upload-offline,
https://developers.google.com/google-ads/api/reference/rpc/v26/UploadClickConversionsRequest

A call bears a token that lives for an hour: it is asked for with the refresh token before the first call, and again when Google
no longer takes it. `orderId` is that of the event, else the `messageId`, by which Google tells a conversion from its repeat.

Known traps: an answer with 200 may hold `partialFailureError`, which names conversions by their index. That a conversion is there
already is a repeat that had arrived. A click of the last hours is not known to Google yet; its conversion is tried again later.
A developer token that uploaded nothing from December 2025 to May 2026 may upload nothing
(https://developers.google.com/ads/blog/posts/2026/05/changes-to-offline-click-conversion), and Google says so by conversion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated
from urllib.parse import urlencode

from msgspec import Meta

from loader.calls import fields, personal
from loader.calls.answers import DENIED, quoted, words_of
from loader.calls.batches import Batch, Piece, array, batched, encode, post
from loader.calls.moments import happened
from loader.calls.options import Batching, address, require, send_limits
from loader.calls.verdicts import JSON_TYPE, alike, held_up, place_in, said, verdict
from loader.cloud import Service
from loader.contract.events import Call, Calls, EventCapabilities, EventDestination, Response
from loader.contract.warehouse import Environment
from shared.events.event import JSON
from shared.events.outcome import Dead, DeadReason, Drop, DropReason, Ok, Outcome, Retry
from shared.reading.mask import Mask

HOST = "https://googleads.googleapis.com"
TOKENS = "https://oauth2.googleapis.com"
BATCH = Batch(events=2_000, bytes=5_000_000, event_bytes=100_000)
ARRIVED = frozenset(
    {"CLICK_CONVERSION_ALREADY_EXISTS", "ORDER_ID_ALREADY_IN_USE", "DUPLICATE_ORDER_ID", "DUPLICATE_CLICK_CONVERSION_IN_REQUEST"}
)
TOO_EARLY = frozenset({"TOO_RECENT_CLICK", "TOO_RECENT_CONVERSION_ACTION", "TOO_RECENT_EVENT"})
PASSING = frozenset({"internalError", "quotaError", "databaseError"})
"""Kinds of errors that are about Google, not about the conversion."""
HELD = frozenset({"authenticationError", "authorizationError", "notAllowlistedError"})
HELD_CODES = frozenset({"CUSTOMER_NOT_ALLOWLISTED_FOR_THIS_FEATURE", "CUSTOMER_NOT_ACCEPTED_CUSTOMER_DATA_TERMS"})
"""Kinds and codes of errors that are about the account: no conversion is at fault, and all wait for a person."""
EARLY_SECONDS = 6 * 3600.0
"""How long after a click or a new conversion action Google wants its conversions."""
CLICKS = ("gclid", "gbraid", "wbraid")


class Options(Batching, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of Google Ads."""

    customer_id: Annotated[str, Meta(description="id of the account, without hyphens")]
    developer_token: Annotated[
        str, Meta(min_length=1, extra={"secret": True}, description="developer token of the manager account")
    ]
    client_id: Annotated[str, Meta(min_length=1, description="id of the OAuth client")]
    client_secret: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="secret of the OAuth client")]
    refresh_token: Annotated[str, Meta(min_length=1, extra={"secret": True}, description="refresh token for the scope adwords")]
    conversions: Annotated[dict[str, str], Meta(description="names of events to ids of conversion actions; others are not sent")]
    login_customer_id: Annotated[
        str | None, Meta(description="id of the manager account through which the account is reached")
    ] = None
    api_version: Annotated[str, Meta(description="version of the API")] = "v26"

    def __post_init__(self) -> None:
        super().__post_init__()
        require("customer_id", self.customer_id, "[0-9]+", "digits without hyphens")
        require("login_customer_id", self.login_customer_id or "0", "[0-9]+", "digits without hyphens")
        require("api_version", self.api_version, r"v\d+", "a version such as v26")
        for name, action in self.conversions.items():
            require(f"conversions.{name}", action, "[0-9]+", "the id of a conversion action, which is digits")


OPTIONS = Options
CAPABILITIES = EventCapabilities()


async def open_destination(name: str, options: Options, environment: Environment) -> EventDestination:  # noqa: ARG001
    """Returns the destination; connects to nothing yet."""
    return GoogleAds(options)


@dataclass(frozen=True, slots=True)
class TokenCall(Call):
    """Asks for a token, then `then` goes out with it."""

    then: Call


@dataclass(frozen=True, slots=True)
class FreshCall(Call):
    """An upload with a token that was given just before it."""


class GoogleAds(Service):
    """One account. It remembers the token that it was given last; nothing else of what was before."""

    def __init__(self, options: Options) -> None:
        super().__init__(send_limits(options, BATCH.events))
        self._options = options
        self._token = ""
        self._tokens = f"{address(options, TOKENS)}/token"
        self._url = f"{address(options, HOST)}/{options.api_version}/customers/{options.customer_id}:uploadClickConversions"
        self._actions = f"customers/{options.customer_id}/conversionActions/"
        self._headers = {"developer-token": options.developer_token, "Content-Type": JSON_TYPE}
        if options.login_customer_id:
            self._headers["login-customer-id"] = options.login_customer_id

    def calls(self, events: Sequence[JSON], at: float) -> Calls:
        def wrap(_target: str, pieces: Sequence[Piece], places: Sequence[int]) -> Call:
            body = b'{"conversions":' + array(pieces) + b',"partialFailure":true}'
            call = post(self._url, self._headers, body, places)
            return _with(call, self._token) if self._token else self._ask(call)

        return batched(events, lambda event: self._piece(event, at), wrap, BATCH)

    def answer(self, call: Call, response: Response) -> Sequence[Outcome] | Call:
        """See `EventDestination.answer`; a token is followed by the upload, and a token that is too old by a new one."""
        if self._token and not isinstance(call, TokenCall):  # it is no option, so no mask of the destination hides it
            response = replace(response, body=Mask([self._token]).body(response.body))
        if isinstance(call, TokenCall):
            token = fields.text(said(response).get("access_token"))
            if response.status == 200 and token:
                self._token = token
                then = call.then
                headers = {**then.headers, "Authorization": f"Bearer {token}"}
                return FreshCall(method=then.method, url=then.url, headers=headers, body=then.body, events=then.events)
            outcome = verdict(response)
            words = f"no token: {words_of(response)}"
            passing = isinstance(outcome, Retry) and response.status not in DENIED
            return alike(call, outcome if passing else held_up(words))  # no event is at fault
        if response.status == 401 and self._token and call.headers.get("Authorization") != f"Bearer {self._token}":
            return _with(call, self._token)  # another line has a newer one
        if response.status == 401 and not isinstance(call, FreshCall):
            self._token = ""
            return self._ask(call)
        failure = said(response).get("partialFailureError")
        if response.status == 200 and isinstance(failure, dict):
            return _outcomes(call, failure)
        return alike(call, verdict(response, form="object"))

    def trial(self) -> Call | str:
        """Asks for a token. That nothing is uploaded leaves open whether the account takes conversions."""
        return self._ask(post(self._url, self._headers, b"", (0,)))

    def _ask(self, call: Call) -> TokenCall:
        form = {
            "grant_type": "refresh_token",
            "client_id": self._options.client_id,
            "client_secret": self._options.client_secret,
            "refresh_token": self._options.refresh_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return TokenCall(
            method="POST", url=self._tokens, headers=headers, body=urlencode(form).encode(), events=call.events, then=call
        )

    def _piece(self, event: JSON, at: float) -> Piece | Drop:
        action = (
            self._options.conversions.get(fields.name_of(event)) if event.get("type") in ("track", "page", "screen") else None
        )
        if action is None:
            return Drop(DropReason.UNSUPPORTED)
        clicks = {name: found for name in CLICKS if (found := _click(event, name))}
        click = dict(list(clicks.items())[:1])  # Google takes one of them
        people = [
            {name: found}
            for name, found in (
                ("hashedEmail", personal.email(fields.first(event, fields.EMAIL), gmail=True)),
                ("hashedPhoneNumber", personal.phone(fields.first(event, fields.PHONE), plus=True)),
            )
            if found
        ]
        if not click and not people:
            return Drop(DropReason.UNIDENTIFIED)
        item: JSON = {
            **click,
            "conversionAction": self._actions + action,
            "conversionDateTime": happened(event, at).strftime("%Y-%m-%d %H:%M:%S+00:00"),
            "orderId": fields.first_text(event, ("properties.order_id", "properties.orderId", "messageId")),
        }
        if people and "gbraid" not in click and "wbraid" not in click:
            item["userIdentifiers"] = people
        value = fields.first_number(event, ("properties.total", "properties.revenue", "properties.value"))
        if value is not None:
            item["conversionValue"] = float(value)
            if currency := fields.first_text(event, ("properties.currency",)):
                item["currencyCode"] = currency.upper()
        return Piece("conversions", encode(item))


def _with(call: Call, token: str) -> Call:
    return replace(call, headers={**call.headers, "Authorization": f"Bearer {token}"})


def _click(event: JSON, name: str) -> str:
    """Returns the id of a click: as the site sends it, else of the page's address."""
    found = fields.first_text(event, (f"context.clientIds.{name}", f"context.{name}", f"properties.{name}"))
    if found:
        return found
    match = re.search(rf"[?&]{name}=([\w.-]{{1,300}})", fields.first_text(event, fields.URL), re.ASCII)
    return match[1] if match else ""


def _outcomes(call: Call, failure: JSON) -> Sequence[Outcome]:
    """Returns the outcomes of an upload of which Google took a part; all are refused if it names none, so that halves find it."""
    outcomes: list[Outcome] = [Ok() for _ in call.events]
    errors = [each for detail in fields.objects(failure.get("details")) for each in fields.objects(detail.get("errors"))]
    for error in errors:
        kind, code = next(iter(fields.object_at(error, "errorCode").items()), ("", ""))
        words = f"{fields.text(code)}: {quoted(fields.text(error.get('message')))}"
        element = next(iter(fields.objects(fields.lookup(error, "location.fieldPathElements"))), {})
        place = place_in(call, element.get("index")) if element.get("fieldName") == "conversions" else None
        if place is None:
            return alike(call, Dead(DeadReason.REJECTED_BY_DESTINATION, f"answered 200: {words}"))
        if kind in PASSING:
            outcomes[place] = Retry(words)
        elif kind in HELD or code in HELD_CODES:
            outcomes[place] = held_up(words)
        elif code in TOO_EARLY:
            outcomes[place] = Retry(words, EARLY_SECONDS)
        elif code not in ARRIVED:
            outcomes[place] = Dead(DeadReason.REJECTED_BY_DESTINATION, words)
    if not errors:
        words = quoted(fields.text(failure.get("message")))
        return alike(call, Dead(DeadReason.REJECTED_BY_DESTINATION, f"answered 200: {words}"))
    return outcomes
