"""Where a Postgres destination is, in the words of its errors."""

from __future__ import annotations

import pytest

from loader.warehouses.postgres.connect import Options, address, connect
from shared.errors import NotConnected, SetupError
from tests.support.ports import free_port


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (Options(dsn="postgresql://u:secret@db.example.com:6543/x"), "db.example.com:6543"),
        (Options(dsn="postgresql://db.example.com/x"), "db.example.com:5432"),
        (Options(dsn="postgresql://u:secret@[::1]/x"), "[::1]:5432"),
        (Options(dsn="postgresql://u@[::1]:1/x", port=2), "[::1]:2"),
        (Options(dsn="postgresql://u@a/x", host="b"), "b:5432"),
        (Options(), "the default host:5432"),
    ],
)
def test_the_address_is_that_of_the_server_and_holds_no_secret(options: Options, where: str) -> None:
    assert address(options) == where


async def test_an_at_in_a_password_is_explained_and_the_password_not_shown() -> None:
    with pytest.raises(SetupError, match="write %40") as caught:
        await connect(Options(dsn="postgresql://u:pa@ss@db.example.com/x"), "name", "opening")
    assert "ss@" not in str(caught.value)


async def test_a_refused_connection_names_host_and_port_and_what_to_check() -> None:
    port = free_port()
    with pytest.raises(NotConnected, match=f"opening at 127.0.0.1:{port}: the connection is refused; check `host` and `port`"):
        await connect(Options(dsn=f"postgresql://u@127.0.0.1:{port}/x"), "name", "opening")
