"""Several processes behind one admin page, on sockets that one of them bound."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ingest import family, processes
from ingest.family import ChildPage, FamilyPage, merge_metrics, merge_ready
from ingest.listen import hold, listen_beside, open_listeners, share
from ingest.processes import _Child
from shared.errors import ConfigError
from shared.telemetry.health import Report

ONE = """# HELP a_total counts
# TYPE a_total counter
a_total{site="x"} 3.0
# HELP b bytes
# TYPE b gauge
b 1.0
"""
TWO = """# HELP b bytes
# TYPE b gauge
b 2.0
# HELP c_total other
# TYPE c_total counter
c_total{} 1.0
"""


def test_samples_of_all_processes_stand_under_one_head_each_with_its_number() -> None:
    families = {each.name: each for each in text_string_to_metric_families(merge_metrics({0: ONE, 1: TWO}))}
    assert [(each.labels, each.value) for each in families["b"].samples] == [({"process": "0"}, 1.0), ({"process": "1"}, 2.0)]
    assert families["a"].samples[0].labels == {"process": "0", "site": "x"}
    assert families["c"].samples[0].labels == {"process": "1"}
    assert families["a"].type == "counter"


def test_the_family_is_ready_while_one_is_and_says_what_the_others_lack() -> None:
    down = {"service": "ended with exit code 1, starts again in 2 s"}
    merged = merge_ready({0: Report(True, warnings={"journal": "nearly full"}), 1: Report(False, down)})
    assert merged == Report(True, {"process 1: service": down["service"]}, {"process 0: journal": "nearly full"})
    assert merge_ready({0: Report(False, {"broker": "away"})}).ready is False


def test_a_process_that_keeps_dying_is_told_and_counted_although_it_runs_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    children = [ChildPage(1, "http://127.0.0.1:9", lambda: "", lambda: "it died 3 times, the last time 2 s ago", lambda: 3)]
    page = FamilyPage("127.0.0.1", port, children)
    assert msgspec.json.decode(page._ready()[2])["warnings"] == {"process 1: deaths": "it died 3 times, the last time 2 s ago"}
    (family,) = text_string_to_metric_families(page._metrics()[2].decode())
    assert [(each.name, each.labels, each.value) for each in family.samples] == [
        ("ingest_process_deaths_total", {"process": "1"}, 3.0)
    ]
    page._server.shutdown()
    page._server.server_close()


def test_a_child_says_that_it_died_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    child = _Child(0, {}, [], [], [])
    assert child.dying() == ""
    child.has_died("ended with exit code -9")
    child.has_died("ended with exit code 1")
    assert child.dying().startswith("it died 2 times, the last time 0 s ago (ended with exit code 1); ")
    monkeypatch.setattr("ingest.processes.DYING_SECONDS", -1.0)
    assert child.dying() == ""


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do() -> None:
    (first,) = open_listeners("127.0.0.1", 0, None, "P_")
    with first, pytest.raises(ConfigError, match=r"P_PORT: cannot listen on 127\.0\.0\.1:\d+: address already in use; stop the"):
        open_listeners("127.0.0.1", first.getsockname()[1], None, "P_")


def test_what_a_parent_holds_for_its_children_nobody_else_can_bind_though_nobody_listens() -> None:
    (held,) = hold("127.0.0.1", 0, "P_")
    port = held.getsockname()[1]
    with held:
        share([held])
        for _ in range(2):  # two lives of a child
            (listener,) = listen_beside([held])
            with listener:
                socket.create_connection(("127.0.0.1", port), timeout=60).close()
                with pytest.raises(ConfigError, match="P_PORT"):
                    hold("127.0.0.1", port, "P_")
        with pytest.raises(ConfigError, match="P_PORT"):
            hold("0.0.0.0", port, "P_")


def test_a_host_that_is_no_address_is_named() -> None:
    with pytest.raises(ConfigError, match="P_HOST"):
        open_listeners("256.0.0.1", 0, None, "P_")


def test_the_interface_of_all_takes_both_kinds_of_addresses() -> None:
    (listener,) = open_listeners("::", 0, None, "P_")
    with listener:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, listener.getsockname()[1]), timeout=60).close()


def test_a_unix_socket_left_behind_is_taken_over_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "edge.sock")
    *tcp, unix = open_listeners("127.0.0.1", 0, path, "P_")
    for listener in tcp:
        listener.close()
    with pytest.raises(ConfigError, match="P_UNIX_SOCKET"):
        open_listeners("127.0.0.1", 0, path, "P_")
    unix.close()
    for listener in open_listeners("127.0.0.1", 0, path, "P_"):
        listener.close()


def test_a_client_that_says_nothing_does_not_hold_a_thread_of_the_admin_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "CLIENT_SECONDS", 0.1)
    (held,) = hold("127.0.0.1", 0, "P_")
    port = held.getsockname()[1]
    held.close()
    family.FamilyPage("127.0.0.1", port, [])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        assert client.recv(1) == b"", "the page ends the connection"


def test_an_answer_of_a_child_that_breaks_off_is_left_out_of_the_admin_page() -> None:
    with socket.create_server(("127.0.0.1", 0)) as child:

        def die_while_answering() -> None:
            connection, _ = child.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        thread = threading.Thread(target=die_while_answering)
        thread.start()
        page = family.ChildPage(0, f"http://127.0.0.1:{child.getsockname()[1]}", lambda: "")
        assert family._ask_ready(page) == Report(False, {"service": "does not answer yet"})
        thread.join()


def test_a_process_that_cannot_be_started_is_tried_again_and_the_others_live_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_processes(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", no_more_processes)
    parent = processes._Parent.__new__(processes._Parent)
    parent._stopping = False
    child = processes._Child(0, {}, [], [], [])
    parent._start(child)
    assert child.process is None
    assert child.down == "cannot be started: [Errno 11] Resource temporarily unavailable, starts again in 0.5 s"
    assert child.start_at > time.monotonic()
