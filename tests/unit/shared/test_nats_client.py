"""Our client of nats-py where no server is needed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from nats.aio.client import Client

from shared.jetstream.client import HearingClient


class Closed:
    """A TLS transport of Python 3.11.2 whose connection is lost."""

    _ssl_protocol: Any = None

    def abort(self) -> None:
        self._ssl_protocol._abort(None)

    def writelines(self, lines: list[bytes]) -> None:
        self._ssl_protocol._write_appdata(lines)


def test_a_closed_tls_transport_is_let_go_so_that_another_connection_follows() -> None:
    client = HearingClient()
    transport: Any = SimpleNamespace(_io_writer=SimpleNamespace(transport=Closed()))
    client._transport = transport
    client.abort()


async def test_a_write_to_a_closed_tls_transport_is_a_lost_connection() -> None:
    client = HearingClient()
    transport: Any = Closed()
    client._transport, client._pending, client._pending_data_size = transport, [b"PING"], 4
    client._flush_queue, client._status = asyncio.Queue(), Client.CONNECTED
    with pytest.raises(ConnectionResetError):
        await client._flush_pending()
