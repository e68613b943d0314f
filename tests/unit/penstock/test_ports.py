"""Ports: the wanted one where it is free, the next free one where it is not."""

from __future__ import annotations

import socket

import pytest

from penstock.ports import PortPicker, is_free
from penstock.stack import choose_ports
from shared.errors import SetupError
from tests.support.nats import free_port


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert not is_free(taken)
        assert PortPicker().pick(taken) > taken


def test_a_port_is_handed_out_once() -> None:
    picker, first = PortPicker(), free_port()
    assert len({picker.pick(first) for _ in range(3)}) == 3


def test_all_ports_of_a_stack_differ() -> None:
    base = free_port()
    for ports in (choose_ports(), choose_ports(min(base, 60_000))):
        every = [ports.ingest, ports.broker, ports.monitor, *ports.admin]
        assert len(set(every)) == len(every)


def test_a_range_without_a_free_port_says_what_to_do() -> None:
    with pytest.raises(SetupError, match="--port-base"):
        PortPicker().pick(65_536)
