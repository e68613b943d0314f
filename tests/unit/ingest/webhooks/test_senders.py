"""Who is believed: signatures that the vendors' own libraries made (`signed.json` names them), and what is changed in them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from ingest.contract import Accepted, Credential, HttpRequest, Reply
from ingest.protocols import webhook
from shared.project.webhooks import Signature, Token
from tests.unit.ingest.desks import NOW, CountingDesk
from tests.unit.ingest.webhooks.deliveries import delivery, desk, events, parsed, refused

SIGNED = json.loads((Path(__file__).parent / "signed.json").read_text(encoding="utf-8"))
CASES = [pytest.param(case, id=f"{number}-{case['type']}") for number, case in enumerate(SIGNED)]
URL = {"twilio": "https://in.example.com/webhooks/hook"}
TIMED = ("stripe", "slack", "standard")


def desk_of(case: dict[str, Any], **more: Any) -> CountingDesk:
    return desk(type=case["type"], secret=case["secret"], url=URL.get(case["type"]), **more)


def request_of(case: dict[str, Any], body: str | None = None) -> HttpRequest:
    text = case["body"] if body is None else body
    return delivery(text, case["headers"], method=case.get("method", "POST"), query=case.get("query", ""))


@pytest.mark.parametrize("case", CASES)
def test_a_delivery_that_the_vendors_library_signed_is_an_event_with_its_name_and_id(case: dict[str, Any]) -> None:
    result = parsed(webhook.parse(request_of(case), desk_of(case)))
    assert not result.rejects
    assert result.heads[0].event == case["event"]
    assert result.heads[0].type == "webhook"
    if "id" in case:
        assert result.heads[0].message_id.startswith(f"hook:{case['id']}")
        again = parsed(webhook.parse(request_of(case), desk_of(case)))
        assert [head.message_id for head in again.heads] == [head.message_id for head in result.heads]


def signed_of(options: dict[str, Any], body: str, id_: str) -> str:
    header = options["signature"].header if "signature" in options else "X-Hub-Signature-256"
    sign = hmac.new(b"k", (f"{id_}." if "signature" in options else "").encode() + body.encode(), "sha256").hexdigest()
    headers = {header: sign if "signature" in options else f"sha256={sign}", "X-GitHub-Delivery": id_, "X-Id": id_}
    (head,) = parsed(webhook.parse(delivery(body, headers), desk(secret="k", **options))).heads
    return head.message_id


def test_an_id_that_is_not_signed_belongs_to_the_signed_bytes() -> None:
    """Who has one signed body could send it under the id of another delivery, which would then be taken for a repeat."""
    github = {"type": "github"}
    first = signed_of(github, '{"a":1}', "d")
    assert first.startswith("hook:d:")
    assert signed_of(github, '{"a":1}', "d") == first
    assert len({first, signed_of(github, '{"a":2}', "d"), signed_of(github, '{"a":1}', "e")}) == 3
    covered = Signature(header="X-Sign", signed="{id}.{body}", id_header="X-Id")
    assert signed_of({"type": "hmac", "signature": covered, "message_id": ["header:x-id"]}, "{}", "d") == "hook:d"


@pytest.mark.parametrize("case", [each for each in SIGNED if each["type"] == "standard"])
def test_an_id_beside_the_signed_one_is_not_believed(case: dict[str, Any]) -> None:
    """Its sender could have seen one delivery, and would take the id of the next."""
    for name in ("webhook-id", "svix-id"):
        both = {**case, "headers": {**case["headers"], name: case["id"]}}
        assert parsed(webhook.parse(request_of(both), desk_of(case))).heads[0].message_id == f"hook:{case['id']}"
        forged = {**case, "headers": {**case["headers"], name: "msg_9"}}
        assert refused(webhook.parse(request_of(forged), desk_of(case))).code == "wrong_signature"


@pytest.mark.parametrize("case", CASES)
def test_another_body_another_secret_and_no_signature_are_refused(case: dict[str, Any]) -> None:
    if case["body"]:
        changed = case["body"].replace("a", "b", 1)
        assert refused(webhook.parse(request_of(case, changed), desk_of(case))).code == "wrong_signature"
    other = SIGNED[[each["type"] for each in SIGNED].index("standard")]["secret"][:-2] + "A="
    if case["type"] != "sendgrid":
        stranger = desk(type=case["type"], secret=other if case["type"] == "standard" else "other", url=URL.get(case["type"]))
        assert refused(webhook.parse(request_of(case), stranger)).code == "wrong_signature"
    bare = delivery(case["body"], method=case.get("method", "POST"), query=case.get("query", ""))
    refusal = refused(webhook.parse(bare, desk_of(case)))
    assert (refusal.status, refusal.code, refusal.site, refusal.key) == (401, "missing_signature", "shop", "hook")


@pytest.mark.parametrize("case", CASES)
def test_while_a_secret_is_changed_both_hold(case: dict[str, Any]) -> None:
    fresh = {"standard": "whsec_" + base64.b64encode(b"new" * 8).decode(), "sendgrid": case["secret"]}.get(case["type"], "new")
    both = desk(type=case["type"], secret=fresh, previous_secret=case["secret"], url=URL.get(case["type"]))
    assert parsed(webhook.parse(request_of(case), both)).heads


@pytest.mark.parametrize("case", [each for each in SIGNED if each["type"] in TIMED])
def test_a_signature_grows_old(case: dict[str, Any]) -> None:
    old = desk_of(case)
    old.time = NOW + 301
    refusal = refused(webhook.parse(request_of(case), old))
    assert (refusal.status, refusal.code) == (403, "stale_signature")
    assert "301 s old" in refusal.message
    early = desk_of(case)
    early.time = NOW - 3600
    assert refused(webhook.parse(request_of(case), early)).code == "stale_signature"
    patient = desk_of(case, tolerance=0)
    patient.time = NOW + 10**6
    assert parsed(webhook.parse(request_of(case), patient)).heads


ALGORITHMS = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "sha3_512"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_any_hmac_is_verified(algorithm: Any, encoding: Any) -> None:
    body = b'{"n":1}'
    made = hmac.new(b"k", b"id-1." + b"1790000000." + body, getattr(hashlib, algorithm)).digest()
    text = made.hex() if encoding == "hex" else base64.b64encode(made).decode()
    signature = Signature(
        header="X-Sign",
        algorithm=algorithm,
        encoding=encoding,
        prefix="v9=",
        signed="{id}.{timestamp}.{body}",
        timestamp_header="X-Time",
        id_header="X-Id",
    )
    headers = {"X-Sign": f"v9={text}", "X-Time": "1790000000", "X-Id": "id-1"}
    here = desk(type="hmac", secret="k", signature=signature)
    assert parsed(webhook.parse(delivery(body, headers), here)).heads
    for name, value in (("X-Sign", text), ("X-Sign", f"v9={text[:-4]}"), ("X-Sign", "v9=é\udcff"), ("X-Id", "id-2")):
        assert refused(webhook.parse(delivery(body, {**headers, name: value}), here)).code == "wrong_signature"
    assert refused(webhook.parse(delivery(body, {**headers, "X-Time": "soon"}), here)).code == "missing_signature"


def test_a_get_has_nothing_to_sign() -> None:
    here = desk(type="github", secret="k")
    made = hmac.new(b"k", b"", "sha256").hexdigest()
    request = delivery(b"", {"X-Hub-Signature-256": f"sha256={made}"}, method="GET", query="a=1")
    assert refused(webhook.parse(request, here)).code == "unsigned"


@pytest.mark.parametrize(
    ("token", "headers", "query"),
    [
        (None, {"Authorization": "Bearer top"}, ""),
        (Token(carrier="header", name="X-Token"), {"X-Token": "top"}, ""),
        (Token(carrier="query", name="key"), {}, "key=top&a=1"),
    ],
)
def test_a_token_is_shown_where_the_webhook_says(token: Token | None, headers: dict[str, str], query: str) -> None:
    here = desk(type="token", secret="top", token=token)
    for method in ("POST", "GET"):
        body = b"{}" if method == "POST" else b""
        assert parsed(webhook.parse(delivery(body, headers, method=method, query=query), here)).heads
    wrong = {name: value.replace("top", "tip") for name, value in headers.items()}
    assert refused(webhook.parse(delivery(b"{}", wrong, query=query.replace("top", "tip")), here)).code == "wrong_token"
    assert refused(webhook.parse(delivery(b"{}"), here)).code == "missing_token"


def test_a_token_in_the_query_is_not_stored() -> None:
    here = desk(type="token", secret="top", token=Token(carrier="query", name="key"))
    (event,) = events(webhook.parse(delivery(b"", method="GET", query="key=top&order=7"), here))
    assert event["properties"] == {"order": "7"}


def test_basic_is_user_and_password() -> None:
    here = desk(type="token", secret="ann:pass", token=Token(carrier="basic"))
    right = {"Authorization": "Basic " + base64.b64encode(b"ann:pass").decode()}
    assert parsed(webhook.parse(delivery(b"{}", right), here)).heads
    for value in ("Basic YW5u", "Basic ???", "Bearer ann:pass"):
        assert refused(webhook.parse(delivery(b"{}", {"Authorization": value}), here)).status == 401


def test_a_webhook_whose_secret_is_not_read_lets_nobody_in_and_says_come_again() -> None:
    here = desk(type="github", secret="${file:/run/secrets/github}")
    refusal = refused(webhook.parse(delivery(b"{}", {"X-Hub-Signature-256": "sha256=00"}), here))
    assert (refusal.status, refusal.code, refusal.retry_after) == (503, "webhook_sealed", 30)


@pytest.mark.parametrize(
    "options",
    [
        {"type": "standard", "secret": "whsec_!!!"},
        {"type": "sendgrid", "secret": "no-key-at-all"},
        {"type": "sendgrid", "secret": base64.b64encode(b"no key at all").decode()},
        {"type": "token", "secret": "password-alone", "token": Token(carrier="basic")},
    ],
)
def test_a_secret_that_is_none_seals_the_webhook_and_is_not_shown(options: dict[str, Any]) -> None:
    refusal = refused(webhook.parse(delivery(b"{}"), desk(**options)))
    assert refusal.code == "webhook_sealed"
    assert "its secret is no" in refusal.message
    assert options["secret"] not in refusal.message


def test_an_address_that_no_webhook_has_is_refused_and_opens_nothing_as_a_key() -> None:
    here = desk(type="open")
    assert refused(webhook.parse(delivery(b"{}", id_="other"), here)).code == "unknown_webhook"
    for carrier in ("header", "path", "query", "body"):
        assert refused(here.admit([Credential(carrier, "hook")])).status == 401  # type: ignore[arg-type]  # each of them is one


def test_slack_is_answered_with_its_challenge_once_the_signature_holds() -> None:
    body = '{"type":"url_verification","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}'
    made = hmac.new(b"s", f"v0:1790000000:{body}".encode(), "sha256").hexdigest()
    headers = {"X-Slack-Signature": f"v0={made}", "X-Slack-Request-Timestamp": "1790000000"}
    reply = webhook.parse(delivery(body, headers), desk(type="slack", secret="s"))
    assert isinstance(reply, Reply)
    assert json.loads(reply.body) == {"challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}
    assert refused(webhook.parse(delivery(body, headers), desk(type="slack", secret="t"))).status == 401


def test_slack_hears_nothing_and_twilio_a_document() -> None:
    assert webhook.reply(delivery(b"", {"X-Slack-Signature": "v0=1"}), Accepted(1)).body == b""
    assert webhook.reply(delivery(b"", {"X-Twilio-Signature": "1"}), Accepted(1)).content_type == "text/xml"
    assert json.loads(webhook.reply(delivery(b""), Accepted(1)).body) == {"success": True}
