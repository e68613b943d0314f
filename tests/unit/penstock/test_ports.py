"""Ports: the wanted one where it is free, the next free one where it is not."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from penstock.stack.ports import PortPicker, is_free
from penstock.stack.stack import choose_ports, local_address
from shared.errors import SetupError
from tests.support.ports import free_port


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


def test_a_port_that_was_asked_for_is_never_replaced_by_another() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        with pytest.raises(SetupError, match=f"--port: port {taken} for events is taken"):
            choose_ports(None, taken)
        with pytest.raises(SetupError, match=f"--port-base: port {taken} for events is taken"):
            choose_ports(taken)
    base = free_port()
    chosen = choose_ports(base, base + 8)
    assert (chosen.ingest, chosen.broker, chosen.admin) == (base + 8, base + 1, tuple(range(base + 3, base + 8)))


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("fd00::1", "[fd00::1]"), ("10.0.0.4", "10.0.0.4")],
)
def test_the_address_that_is_printed_can_be_typed(host: str, address: str) -> None:
    assert local_address(host) == address


def test_a_range_without_a_free_port_says_what_to_do() -> None:
    with pytest.raises(SetupError, match="--port-base"):
        PortPicker().pick(65_536)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that end with their process")
def test_a_stack_that_starts_at_the_same_time_chooses_another_port_until_the_first_one_ends() -> None:
    first = free_port()
    code = f"from penstock.stack.ports import PortPicker; print(PortPicker().pick({first}), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        chosen = int(other.stdout.readline())
        assert PortPicker().pick(chosen) > chosen
        with pytest.raises(SetupError, match="taken by another program"):
            PortPicker().demand(chosen, "the edge", "--port")
        other.communicate("\n")
    assert PortPicker().pick(chosen) == chosen
