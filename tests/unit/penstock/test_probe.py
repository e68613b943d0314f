"""The health check of a container asks `/ready` and says what it heard."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from penstock import probe
from tests.support.ports import free_port


class Answer(BaseHTTPRequestHandler):
    """Is ready, and not live."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 503)
        self.end_headers()
        self.wfile.write(f"asked for {self.path}".encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_service_that_is_ready_is_healthy_and_one_that_is_not_says_why(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_ADMIN_PORT", str(port))
    assert probe.main([]) == 0
    assert capsys.readouterr().out == "asked for /ready\n"
    assert probe.main(["/live"]) == 1
    assert capsys.readouterr().out == "asked for /live\n"


def test_no_answer_is_no_health(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    monkeypatch.setenv("PENSTOCK_ADMIN_PORT", str(port))
    assert probe.main([]) == 1
    assert f"no answer at port {port}" in capsys.readouterr().out
    monkeypatch.setenv("PENSTOCK_ADMIN_PORT", "0")
    assert probe.main([]) == 1
    assert "names no port" in capsys.readouterr().out


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, penstock.probe; print(*sorted(name for name in sys.modules if name.split('.')[0] in ('asyncio', 'aiohttp', 'nats', 'click', 'rich', 'pyarrow')))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
