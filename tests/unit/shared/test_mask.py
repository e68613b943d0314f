"""Secrets in texts of others: hidden in every form that a server may echo them in; what is no secret stays readable."""

from __future__ import annotations

import base64

import pytest

from loader.registry import mask_of
from shared.errors import Permanent, RowsRejected
from shared.reading.mask import HIDDEN, Mask

WEBHOOK = {
    "type": "webhook",
    "url": "https://example.com/in",
    "headers": {
        "Authorization": 'Bearer tok"en/4711',
        "Content-Type": "application/json",
        "X-User": "key-of-ours {{ event.userId }}",
    },
    "secret": "sign&seal",
}


@pytest.mark.parametrize(
    "echo",
    [
        'no such token: Bearer tok"en/4711',
        r'{"authorization": "Bearer tok\"en/4711"}',
        "/login?token=tok%22en%2F4711",
        "<b>tok&quot;en/4711</b>",
        "signed with sign&seal",
        "X-User: key-of-ours u1",
    ],
)  # fmt: skip
def test_a_secret_is_hidden_as_it_is_and_as_others_write_it(echo: str) -> None:
    mask = mask_of(WEBHOOK)
    for shown in (mask.text(echo), mask.body(echo.encode()).decode()):
        assert HIDDEN in shown
        assert not any(secret in shown for secret in ("4711", "seal", "key-of-ours"))


@pytest.mark.parametrize("text", ["send application/json", "use a Bearer token", "look at example.com", "", "not found"])
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert mask_of(WEBHOOK).text(text) == text


def test_the_password_of_an_address_is_hidden_and_its_user_is_not() -> None:
    mask = mask_of({"type": "postgres", "dsn": "postgresql://penstock:p%40ssword@db.example.com/penstock"})
    said = 'password authentication failed for user "penstock" with p@ssword or p%40ssword at db.example.com'
    assert mask.text(said) == f'password authentication failed for user "penstock" with {HIDDEN} or {HIDDEN} at db.example.com'
    same = mask_of({"type": "clickhouse", "user": "penstock", "password": "penstock"})
    assert same.text("there is no user penstock") == "there is no user penstock"


def test_the_password_of_basic_authentication_is_hidden() -> None:
    coded = base64.b64encode(b"user:open-sesame").decode()
    assert Mask([{"Authorization": f"Basic {coded}"}]).text(f"open-sesame, that is {coded}") == f"{HIDDEN}, that is {HIDDEN}"


@pytest.mark.parametrize("user", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("after", ["", ":", ":x"])
def test_a_secret_is_hidden_in_the_base64_of_basic_authentication(user: str, after: str) -> None:
    coded = base64.b64encode(f"{user}:open-sesame{after}".encode()).decode()
    shown = Mask(["open-sesame"]).text(f"Basic {coded}")
    assert HIDDEN in shown
    assert len(shown.replace(HIDDEN, "")) <= len("Basic ") + len(coded) - len("open-sesame") * 4 // 3 + 3, (
        "more than its edges is left"
    )


def test_the_path_of_a_webhook_is_hidden_and_its_host_is_not() -> None:
    mask = mask_of({"type": "slack", "url": "https://hooks.slack.com/services/T01/B02/abcdef123456"})
    assert mask.text("no /services/T01/B02/abcdef123456 at hooks.slack.com") == f"no /{HIDDEN} at hooks.slack.com"
    assert mask.text("token abcdef123456 is revoked") == f"token {HIDDEN} is revoked"


def test_the_texts_of_an_error_are_hidden_also_row_by_row() -> None:
    error = RowsRejected("t", "value 'open-sesame'", {1: "open-sesame"})
    Mask(["open-sesame"]).error(error)
    assert (str(error), error.message, error.rows) == (f"table \"t\": value '{HIDDEN}'", f"value '{HIDDEN}'", {1: HIDDEN})
    plain = Permanent("nothing")
    Mask([]).error(plain)
    assert str(plain) == "nothing"


def test_secrets_of_a_staging_store_are_hidden_too() -> None:
    staging = {"type": "s3", "bucket": "a-bucket", "access_key_id": "key-of-staging", "secret_access_key": "secret-of-staging"}
    text = mask_of({"type": "clickhouse", "staging": staging}).text("a-bucket key-of-staging secret-of-staging")
    assert text == "a-bucket key-of-staging •••"
