"""Webhooks in the project file: what is refused, and that the message says what to write."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.project.plan import compare, inline_secrets
from shared.errors import ConfigError
from shared.project.model import Project
from shared.project.read import decode_project


def project(**webhook: Any) -> Project:
    return decode_project({"sites": {"shop": {}}, "webhooks": {"hook": {"site": "shop", **webhook}}})


@pytest.mark.parametrize(
    "webhook",
    [
        {"type": "open"},
        {"type": "token", "secret": "t", "token": {"carrier": "query", "name": "key"}},
        {"type": "hmac", "secret": "t", "signature": {"header": "X-Sign"}},
        {"type": "github", "secret": "${vault:secret/data/github#hook}", "previous_secret": "old"},
        {"type": "stripe", "secret": "t", "tolerance": "10m"},
        {"type": "sendgrid", "secret": "${file:/run/secrets/sendgrid}"},
        {"type": "twilio", "secret": "t", "url": "https://in.example.com/webhooks/hook"},
        {"type": "open", "id": "8f1c-9", "event": ["header:X-Kind", "a.b"], "message_id": ["query:id"]},
    ],
)
def test_webhooks_of_every_kind_are_taken(webhook: dict[str, Any]) -> None:
    assert project(**webhook).webhooks["hook"].type == webhook["type"]


@pytest.mark.parametrize(
    ("webhook", "path", "words"),
    [
        ({"type": "github"}, "secret", "type github needs it"),
        ({"type": "open", "secret": "x"}, "secret", "lets everybody in"),
        ({"type": "github", "secret": " "}, "secret", "is its variable empty?"),
        ({"type": "gitlab", "secret": "x"}, "type", "github"),
        ({"type": "open", "site": "shp"}, "site", "did you mean"),
        ({"type": "open", "id": "a/b"}, "id", "part of an address"),
        ({"type": "hmac", "secret": "x"}, "signature", "X-Signature"),
        ({"type": "hmac", "secret": "x", "signature": {"header": "a b"}}, "signature.header", "name of a header"),
        (
            {"type": "hmac", "secret": "x", "signature": {"header": "a", "signed": "{time}"}},
            "signature.signed",
            "leaves the body out",
        ),
        (
            {"type": "hmac", "secret": "x", "signature": {"header": "a", "signed": "{id}{body}"}},
            "signature.id_header",
            "needs id_header",
        ),
        (
            {"type": "hmac", "secret": "x", "signature": {"header": "a", "timestamp_header": "b"}},
            "signature.signed",
            "is not signed",
        ),
        ({"type": "token", "secret": "x", "token": {"carrier": "header"}}, "token.name", "needs the name"),
        ({"type": "twilio", "secret": "x"}, "url", "exactly as Twilio has it"),
        ({"type": "stripe", "secret": "x", "url": "https://a"}, "url", "take it out"),
        ({"type": "github", "secret": "x", "tolerance": 5}, "tolerance", "covers no time"),
        ({"type": "open", "event": ["a..b"]}, "event[0]", "header:Name"),
        ({"type": "open", "message_id": ["header:"]}, "message_id[0]", "header:Name"),
    ],
)
def test_a_fault_names_its_place_and_what_to_write(webhook: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        project(**webhook)
    found = [problem.message for problem in raised.value.problems if problem.path == f"webhooks.hook.{path}"]
    assert any(words in message for message in found), raised.value.problems


def test_a_misspelt_option_is_told_with_the_right_one() -> None:
    with pytest.raises(ConfigError, match="did you mean `secret`"):
        project(type="open", secrets="x")


def test_two_webhooks_of_one_address_are_refused() -> None:
    document = {
        "sites": {"shop": {}},
        "webhooks": {"a": {"site": "shop", "type": "open"}, "b": {"site": "shop", "type": "open", "id": "a"}},
    }
    with pytest.raises(ConfigError, match="/webhooks/a"):
        decode_project(document)


def test_a_plan_shows_no_secret_and_a_file_with_one_is_not_kept_as_text() -> None:
    before = {"sites": {"shop": {}}, "webhooks": {"hook": {"site": "shop", "type": "github", "secret": "first"}}}
    after = {
        "sites": {"shop": {}},
        "webhooks": {"hook": {"site": "shop", "type": "github", "secret": "second", "previous_secret": "first"}},
    }
    shown = str(compare(before, after))
    assert "first" not in shown
    assert "second" not in shown
    assert inline_secrets(after) == ["webhooks.hook.secret", "webhooks.hook.previous_secret"]
