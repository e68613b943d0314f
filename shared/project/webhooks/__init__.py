"""Webhooks of the project file: an address of its own for each, how its senders prove themselves, and how a payload becomes events.

The edge serves them (`ingest/protocols/webhook.py`); docs/protocols/webhook.md has a section for each type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from shared.errors import Problem
from shared.project.webhooks.hydrate import Hydrate, check_hydrate
from shared.reading.decode import meant
from shared.reading.units import Duration

if TYPE_CHECKING:
    from shared.project.model import Project

WebhookType = Literal["open", "token", "hmac", "standard", "github", "stripe", "shopify", "slack", "sendgrid", "twilio"]

ID = re.compile(r"[A-Za-z0-9._~-]{1,200}", re.ASCII)
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
WORDS = ("{body}", "{timestamp}", "{id}")
TIMED = ("stripe", "slack", "standard")
"""Types whose signatures cover a time that is compared with the clock."""


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signature of type `hmac`: where it stands, and what it signs."""

    header: Annotated[str, Meta(description="header that holds the signature")]
    algorithm: Annotated[
        Literal["sha256", "sha1", "sha512", "sha384", "sha224", "md5", "sha3_256", "sha3_512"],
        Meta(description="hash of the HMAC"),
    ] = "sha256"
    encoding: Annotated[Literal["hex", "base64"], Meta(description="how the signature is written")] = "hex"
    prefix: Annotated[str, Meta(description="text before the signature, such as `sha256=`")] = ""
    signed: Annotated[
        str, Meta(description="what is signed, of `{body}`, `{timestamp}` and `{id}`, such as `{timestamp}.{body}`")
    ] = "{body}"
    timestamp_header: Annotated[str | None, Meta(description="header with the time of the signature, in seconds since 1970")] = (
        None
    )
    id_header: Annotated[str | None, Meta(description="header with the id that `{id}` means")] = None


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a sender of type `token` shows its secret."""

    carrier: Annotated[
        Literal["bearer", "basic", "header", "query"],
        Meta(
            description="bearer, basic: in `Authorization`. header, query: under `name`. For basic the secret is `user:password`"
        ),
    ] = "bearer"
    name: Annotated[str | None, Meta(description="name of the header or of the parameter")] = None


class Webhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An address at which another system delivers: `/webhooks/{id}`."""

    site: Annotated[str, Meta(description="name of the site whose events the payloads become")]
    type: Annotated[
        WebhookType,
        Meta(description="how senders prove themselves: a vendor's own way, `hmac`, `token`, `standard`, or `open`: not at all"),
    ]
    id: Annotated[str | None, Meta(description="last part of the address; default: the name")] = None
    secret: Annotated[
        str | None,
        Meta(
            description="the secret that the sender shares, or SendGrid's public key; in the file as ${NAME}, ${file:…} or ${vault:…}",
            extra={"secret": True},
        ),
    ] = None
    previous_secret: Annotated[
        str | None,
        Meta(description="holds too while the secret is being changed", extra={"secret": True}),
    ] = None
    signature: Annotated[Signature | None, Meta(description="of type hmac: how it is signed")] = None
    token: Annotated[Token | None, Meta(description="of type token: where it stands; default: `Authorization: Bearer`")] = None
    tolerance: Annotated[
        Duration | None,
        Meta(description="how old or early a signature may be, where it covers a time; 0: any. Default: 5m"),
    ] = None
    url: Annotated[str | None, Meta(description="of type twilio: the address as Twilio has it, which it signs")] = None
    format: Annotated[
        Literal["unpacked", "packed"],
        Meta(description="unpacked: members become columns. packed: the payload is one JSON value, `data`"),
    ] = "unpacked"
    event: Annotated[
        list[str],
        Meta(
            description="places of the event's name, the first that is there: `header:X-Topic`, `query:kind`, or a path such as `data.kind`"
        ),
    ] = []
    message_id: Annotated[
        list[str], Meta(description="places of the delivery's id, by which repeats are found, written as in `event`")
    ] = []
    content_id: Annotated[
        bool, Meta(description="true: a payload without an id gets one made of its bytes, so the same bytes are one event")
    ] = False
    user_id: Annotated[list[str], Meta(description="places of the user's id, written as in `event`")] = []
    hydrate: Annotated[
        Hydrate | None,
        Meta(description="a GET for what a delivery only names; functions_runtime sends it for each connection of the site"),
    ] = None

    @property
    def tolerance_seconds(self) -> float:
        """How far the time of a signature may be off; 0: any."""
        return 300.0 if self.tolerance is None else float(self.tolerance)


def address_id(name: str, webhook: Webhook) -> str:
    """Returns the last part of a webhook's address."""
    return webhook.id or name


def check_webhooks(project: Project) -> list[Problem]:
    """Returns every fault, with its path and what to write instead."""
    problems: list[Problem] = []
    owners: dict[str, str] = {}
    for name, webhook in project.webhooks.items():
        path = f"webhooks.{name}"
        if webhook.site not in project.sites:
            known = ", ".join(sorted(project.sites)) or "none"
            text = f"no site is named {webhook.site!r};{meant(webhook.site, project.sites)} known: {known}"
            problems.append(Problem(f"{path}.site", text))
        id_ = address_id(name, webhook)
        if not ID.fullmatch(id_):
            problems.append(
                Problem(f"{path}.id", "expected 1 to 200 letters, digits, `-`, `_`, `.` and `~`: it is part of an address")
            )
        if id_ in owners:
            problems.append(
                Problem(
                    f"{path}.id", f"webhook {owners[id_]!r} has the address /webhooks/{id_} already; give this one another `id`"
                )
            )
        owners.setdefault(id_, name)
        problems.extend(_check_proof(path, webhook))
        problems.extend(_check_places(path, webhook))
        if webhook.hydrate is not None:
            problems.extend(check_hydrate(f"{path}.hydrate", webhook.hydrate))
    return problems


def _check_proof(path: str, webhook: Webhook) -> Iterator[Problem]:
    kind = webhook.type
    if kind == "open":
        for option in ("secret", "previous_secret"):
            if getattr(webhook, option) is not None:
                yield Problem(
                    f"{path}.{option}", "means nothing with type open, which lets everybody in; write the type of the sender"
                )
    elif webhook.secret is None:
        what = "the public key that SendGrid shows" if kind == "sendgrid" else "the secret that the sender shares with you"
        yield Problem(f"{path}.secret", f"type {kind} needs it: {what}; or write type: open, and everybody may send")
    for option in ("secret", "previous_secret"):
        value = getattr(webhook, option)
        if value is not None and not value.strip():
            yield Problem(f"{path}.{option}", "it is empty; is its variable empty?")
    for option, of in (("signature", "hmac"), ("token", "token"), ("url", "twilio")):
        if getattr(webhook, option) is not None and kind != of:
            yield Problem(f"{path}.{option}", f"means nothing with type {kind}; take it out, or write type: {of}")
    if kind == "hmac" and webhook.signature is None:
        yield Problem(
            f"{path}.signature", "type hmac needs it: write at least the header, as in signature: {header: X-Signature}"
        )
    if kind == "twilio" and not (webhook.url or "").startswith(("https://", "http://")):
        yield Problem(
            f"{path}.url", "type twilio needs the address exactly as Twilio has it, because it signs it: https://…/webhooks/…"
        )
    if (
        webhook.tolerance is not None
        and kind not in (*TIMED, "sendgrid")
        and not (webhook.signature and webhook.signature.timestamp_header)
    ):
        yield Problem(
            f"{path}.tolerance",
            "means nothing here: the signature covers no time; take it out, or write signature.timestamp_header",
        )
    if webhook.signature is not None:
        yield from _check_signature(f"{path}.signature", webhook.signature)
    token = webhook.token
    if token is not None and token.carrier in ("header", "query") and not token.name:
        yield Problem(f"{path}.token.name", f"a token in a {token.carrier} needs the name it has there")
    if token is not None and token.carrier in ("bearer", "basic") and token.name:
        yield Problem(
            f"{path}.token.name", f"means nothing with carrier {token.carrier}, which is in `Authorization`; take it out"
        )


def _check_signature(path: str, signature: Signature) -> Iterator[Problem]:
    for option in ("header", "timestamp_header", "id_header"):
        value = getattr(signature, option)
        if value is not None and not HEADER.fullmatch(value):
            yield Problem(f"{path}.{option}", f"expected the name of a header, got {value!r}")
    if "{body}" not in signature.signed:
        yield Problem(f"{path}.signed", "leaves the body out, so anybody could change it; write {body} in it")
    left = re.findall(r"\{[^}]*\}", signature.signed)
    for word in left:
        if word not in WORDS:
            yield Problem(f"{path}.signed", f"{word} means nothing here; known: {', '.join(WORDS)}")
    for word, option in (("{timestamp}", "timestamp_header"), ("{id}", "id_header")):
        given = getattr(signature, option) is not None
        if (word in left) != given:
            text = (
                f"{word} needs {option}, the header it comes in"
                if not given
                else f"{option} is not signed: write {word} in `signed`"
            )
            yield Problem(f"{path}.{'signed' if given else option}", text)


def _check_places(path: str, webhook: Webhook) -> Iterator[Problem]:
    places: Mapping[str, list[str]] = {"event": webhook.event, "message_id": webhook.message_id, "user_id": webhook.user_id}
    for option, found in places.items():
        for index, place in enumerate(found):
            kind, colon, name = place.partition(":")
            bad = (
                not place
                or (colon and kind in ("header", "query") and not name)
                or (kind == "header" and colon and not HEADER.fullmatch(name))
            )
            if bad or ("" in place.split(".") and not colon):
                yield Problem(
                    f"{path}.{option}[{index}]", f"expected header:Name, query:name or a path such as data.id, got {place!r}"
                )
