"""The address of a broker: servers, user, TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.jetstream.address import Address, parse_address, without_password


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("nats://127.0.0.1:4222", Address(("nats://127.0.0.1:4222",))),
        ("broker", Address(("nats://broker:4222",))),
        ("nats://[::1]:4333", Address(("nats://[::1]:4333",))),
        ("nats://loader:p%40ss@a, nats://b:1", Address(("nats://a:4222", "nats://b:1"), user="loader", password="p@ss")),
        ("nats://secret@a", Address(("nats://a:4222",), token="secret")),
        ("tls://a,nats://b", Address(("tls://a:4222", "tls://b:4222"), tls=True)),
        (
            "nats://u:p@a,b?ca=/c%20a.pem",
            Address(("tls://a:4222", "tls://b:4222"), user="u", password="p", tls=True, ca="/c a.pem"),
        ),
    ],
)
def test_an_address_names_servers_user_and_files(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "http://a", "nats://", "nats://a:x", "nats://u:secret@a?cafile=/x"])
def test_a_wrong_address_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(ConfigError, match="the broker's address") as raised:
        parse_address(text)
    assert "secret" not in str(raised.value)


def test_a_user_has_an_inbox_of_its_own() -> None:
    assert parse_address("nats://loader:p@a").inbox_prefix == "_INBOX.loader"
    assert parse_address("nats://a").inbox_prefix == "_INBOX"
    assert parse_address("nats://a.*:p@a").inbox_prefix == "_INBOX"


def test_a_missing_file_of_the_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca: .*none\.pem cannot be read"):
        parse_address(f"tls://a?ca={tmp_path / 'none.pem'}").context()


def test_an_address_is_shown_without_password_and_files() -> None:
    assert without_password("tls://u:p@a:1,tls://b:2?ca=/x") == "a:1,tls://b:2"
